"""Who is who: names of drivers and teams, as the timing feed writes them, become Ergast/Jolpica ids.

Only for feeds without ids of their own. Ergast's convention is the family name in lower-case ASCII letters; who came later, or
has a name in several words, may have another id, and those are listed here. Drivers since 2010 and teams since 2018 are known.
"""

import re
import unicodedata

import pandas as pd

# Ids made of given and family name: somebody else had the family name before, or Jolpica chose so.
_FULL_NAMES = frozenset(
    {
        "arvid_lindblad",
        "brendon_hartley",
        "bruno_senna",
        "jolyon_palmer",
        "jules_bianchi",
        "kevin_magnussen",
        "max_verstappen",
        "michael_schumacher",
        "mick_schumacher",
        "pietro_fittipaldi",
    }
)
# Family names in several words of which Ergast keeps one; `de Vries` keeps both.
_SHORTENED = {
    "d_ambrosio": "ambrosio",
    "de_la_rosa": "rosa",
    "di_grassi": "grassi",
    "di_resta": "resta",
    "van_der_garde": "garde",
}
# Team names (as `_plain` writes them) that are not the constructorRef
_CONSTRUCTORS = {
    "alfa_romeo": "alfa",
    "alfa_romeo_racing": "alfa",
    "alpine_f1_team": "alpine",
    "cadillac_f1_team": "cadillac",
    "haas_f1_team": "haas",
    "kick_sauber": "sauber",
    "racing_bulls": "rb",
    "rb_f1_team": "rb",
    "red_bull_racing": "red_bull",
}


def driver_ids(people: pd.DataFrame) -> "pd.Series[object]":
    """Ergast driverRef of each row, with its index; None where neither the name nor another row of the driver's code tells.

    Args:
        people: `season, code, given_name, family_name`; a name may be null where another row with the same season and code has it
            (services leave names out in some sessions).
    """
    given, family = people["given_name"].map(_plain, na_action="ignore"), people["family_name"].map(_plain, na_action="ignore")
    full = given + "_" + family
    refs = full.where(full.isin(_FULL_NAMES), family.replace(_SHORTENED)).replace("", None).astype(object)
    code = [people["season"], people["code"]]
    return refs.fillna(refs.groupby(code).transform("first")).where(lambda found: found.notna(), None)


def constructor_id(team_name: str, season: int) -> str:
    """Ergast constructorRef of a team as the timing feed (FastF1, OpenF1) or Ergast itself writes it in a season.

    A name that is not known becomes its lower-case letters and digits, which is right for every team named by one word.
    """
    name = _plain(team_name)
    if name == "racing_point" and season == 2018:
        return "force_india"  # bought and renamed during the season; Ergast knows the new name from 2019 on
    return _CONSTRUCTORS.get(name, name)


def _plain(name: str) -> str:
    """`Räikkönen` -> `raikkonen`, `d'Ambrosio` -> `d_ambrosio`, `Haas F1 Team` -> `haas_f1_team`."""
    ascii_ = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", ascii_).strip("_")
