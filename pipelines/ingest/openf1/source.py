"""The `openf1` source: races since 2023 from the OpenF1 API, session by session.

Asked for: the meetings and sessions of a year, each race's result (which tells whether it was held), and ten lists more a race.
Bodies are kept on disk, so a run that was stopped goes on where it was.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from feature_repo.settings import Settings
from pipelines.errors import SourceMissingError, SourcePausedError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.canonical import circuits, conditions, entries, timing
from pipelines.ingest.canonical.assemble import RawSeason, assemble
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.canonical.sieve import Rule, Sieve
from pipelines.ingest.catalogue import limits
from pipelines.ingest.openf1 import results as openf1_results
from pipelines.ingest.openf1 import tables as openf1_tables
from pipelines.ingest.openf1.answers import RaceWeekend, race_weekends, typed
from pipelines.ingest.openf1.flags import LIGHTS_OUT_S, lights_out
from pipelines.ingest.openf1.tables import RaceAnswers
from pipelines.ingest.web.client import PoliteClient

logger = logging.getLogger(__name__)

SETTLED = pd.Timedelta(days=14)  # results, and rows that were missing, are put right in the days after a race
_UNSETTLED_MAX_AGE_S = 3600.0
_OF_RACE = ("laps", "stints", "pit", "position", "weather", "race_control")
_TIMED = {
    "laps": (timing.LAP_RULES, timing.LAP_KEY, [name for name, _ in {**timing.LAP_COLUMNS, **timing.LAP_OPTIONAL}.values()]),
    "stints": (timing.STINT_RULES, timing.STINT_KEY, [name for name, _ in timing.STINT_COLUMNS.values()]),
    "pit_stops": (timing.PIT_RULES, timing.PIT_KEY, [name for name, _ in timing.PIT_COLUMNS.values()]),
    "weather": (conditions.WEATHER_RULES, conditions.WEATHER_KEY, [name for name, _ in conditions.WEATHER_COLUMNS.values()]),
    "track_status": (conditions.STATUS_RULES, conditions.STATUS_KEY, [name for name, _ in conditions.STATUS_COLUMNS.values()]),
    # a message that is repeated with another lap of the leader (8 of 2023 round 11) is the same message
    "race_control": (conditions.CONTROL_RULES, conditions.CONTROL_KEY, [c for c in conditions.CONTROL_CONTENT if c != "lap"]),
}


class OpenF1Source:
    """Reads seasons, or some rounds of them, from the OpenF1 API."""

    name = "openf1"
    is_simulated = False

    def __init__(
        self, settings: Settings, *, rounds: Sequence[int] | None = None, refresh: bool = False, paths: Sequence[Path] = ()
    ) -> None:
        """Take what is wanted; nothing is asked yet.

        Args:
            settings: where the API is and responses are kept.
            rounds: official rounds of every season asked for; None: all.
            refresh: ask again for what was kept.
            paths: folders whose `f1db/races.csv` knows courses that the built-in table does not.
        """
        self.client = PoliteClient(self.name, settings.openf1_url, settings.cache_dir, limits(self.name), refresh=refresh)
        self.rounds = None if rounds is None else frozenset(rounds)
        self.paths = list(paths)

    def fingerprint(self) -> None:
        """Not known before the service is asked."""

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield the seasons asked for, ascending; see `Source.read`."""
        asked = sorted(set(seasons))
        sieve = Sieve(report, asked)
        for season in asked:
            complete: list[RaceAnswers] = []
            try:
                weekends = self._wanted(season, self._rounds_of(season, report), report, is_only_season=len(asked) == 1)
                for round_, weekend in weekends.items():
                    complete.append(self._read_race(season, round_, weekend))
                    logger.info(
                        "race_read source=%s season=%s round=%s name=%r requests=%s from_cache=%s",
                        *(self.name, season, round_, weekend.name, self.client.requests, self.client.hits),
                    )
            except SourcePausedError:
                if complete:
                    yield self._assemble(season, complete, sieve, is_whole=False)
                raise
            yield self._assemble(season, complete, sieve, is_whole=self.rounds is None)

    def _ask(self, endpoint: str, settled: pd.Timestamp | None, **params: int) -> tuple[pd.DataFrame, pd.Timestamp]:
        """An endpoint's rows, and when they were the service's word.

        Args:
            endpoint: one of `openf1_answers.FIELDS`.
            settled: a kept body from before this instant is asked for again when it is an hour old; None: never.
            params: filters.
        """
        url = f"{endpoint}?{'&'.join(f'{name}={value}' for name, value in params.items())}"

        frames: list[pd.DataFrame] = []

        def understand(data: Any) -> None:
            frames.append(typed(endpoint, data, url))

        fetched = self.client.get_json(endpoint, params, absent_for_s=_UNSETTLED_MAX_AGE_S, validate=understand)
        if settled is not None and fetched.fetched_at < settled:
            fetched = self.client.get_json(
                endpoint, params, max_age_s=_UNSETTLED_MAX_AGE_S, absent_for_s=_UNSETTLED_MAX_AGE_S, validate=understand
            )
        return frames[-1] if fetched.data is not None else typed(endpoint, None, url), fetched.fetched_at

    def _result(self, weekend: RaceWeekend) -> pd.DataFrame:
        return self._ask("session_result", weekend.race_end + SETTLED, session_key=weekend.race_key)[0]

    def _rounds_of(self, season: int, report: IngestReport) -> dict[int, RaceWeekend | None]:
        """Official round -> weekend, or None where the race is still to come; up to the last round that is wanted.

        A race that is over and has no result was cancelled, or its result is not out: it has no round, and a note says so.

        Raises:
            SourceMissingError: the service has no race of the season.
        """
        sessions, now = self._ask("sessions", None, year=season)
        settled = sessions["date_end"].max() + SETTLED if len(sessions) else now
        if now < settled:
            sessions, now = self._ask("sessions", settled, year=season)
        weekends = race_weekends(self._ask("meetings", settled, year=season)[0], sessions)
        if not weekends:
            raise SourceMissingError(
                f"{self.name}: season {season}: got no race in sessions?year={season}, expected some; OpenF1 begins "
                "with 2023: ask for another season or another source"
            )
        rounds: dict[int, RaceWeekend | None] = {}
        for weekend in weekends:
            if self.rounds is not None and len(rounds) >= max(self.rounds, default=0):
                break
            is_held = weekend.race_start < now and len(self._result(weekend)) > 0
            if is_held or weekend.race_end > now:
                rounds[len(rounds) + 1] = weekend if is_held else None
            else:
                report.note(
                    f"{weekend.name} on {weekend.race_start:%Y-%m-%d}: OpenF1 has no result: cancelled, or not out yet; "
                    "not counted as a round"
                )
        return rounds

    def _wanted(
        self, season: int, rounds: Mapping[int, RaceWeekend | None], report: IngestReport, *, is_only_season: bool
    ) -> dict[int, RaceWeekend]:
        """The weekends to read, in order.

        Raises:
            SourceMissingError: a round that is asked for does not exist, or none of them was held yet.
        """
        asked = sorted(rounds) if self.rounds is None else sorted(self.rounds)
        unknown = [round_ for round_ in asked if round_ not in rounds]
        held = {round_: weekend for round_ in asked if (weekend := rounds.get(round_)) is not None}
        if unknown:
            text = (
                f"{self.name}: season {season}: got rounds {', '.join(map(str, unknown))}, expected some of the season's "
                f"1-{max(rounds, default=0)}; ask for those"
            )
            if is_only_season:
                raise SourceMissingError(text)
            report.note(text)
        ahead = [round_ for round_ in asked if round_ in rounds and round_ not in held]
        if ahead:
            report.note(f"season {season}: rounds {', '.join(map(str, ahead))} have not been held yet; not ingested")
        if not held:
            raise SourceMissingError(
                f"{self.name}: season {season}: got no race with a result among the rounds asked for, expected one; "
                "ask for rounds that were held"
            )
        return held

    def _read_race(self, season: int, round_: int, weekend: RaceWeekend) -> RaceAnswers:
        settled = weekend.race_end + SETTLED
        lists = {name: self._ask(name, settled, session_key=weekend.race_key)[0] for name in _OF_RACE}
        drivers = self._ask("drivers", settled, meeting_key=weekend.meeting_key)[0]  # who qualified may not have raced
        key = weekend.qualifying_key
        # the starting grid has the key of the session that made it
        qualifying, grid = (
            self._ask(name, settled, session_key=key)[0] if key is not None else typed(name, [], name)
            for name in ("session_result", "starting_grid")
        )
        result = self._result(weekend)
        return RaceAnswers(season, round_, weekend, drivers, **lists, result=result, qualifying=qualifying, starting_grid=grid)

    def _assemble(self, season: int, races: list[RaceAnswers], sieve: Sieve, *, is_whole: bool) -> SeasonTables:
        """Canonical tables of races that were read; `is_whole`: they are the season."""
        people = openf1_tables.make_people(races)
        starts = {race.round: lights_out(race.laps, race.result, race.race_control) for race in races}
        clocked = [(race, starts[race.round]) for race in races]
        frames: dict[str, list[pd.DataFrame]] = {
            "weather": [openf1_tables.make_weather(race, start) for race, start in clocked],
            "track_status": [openf1_tables.make_track_status(race, start) for race, start in clocked],
            "race_control": [openf1_tables.make_race_control(race, start) for race, start in clocked],
        }
        for table, made in (
            ("laps", [openf1_tables.make_laps(race, people, start) for race, start in clocked]),
            ("stints", [openf1_tables.make_stints(race, people) for race in races]),
            ("pit_stops", [openf1_tables.make_pit_stops(race, people, start) for race, start in clocked]),
        ):
            frames[table] = [frame for frame, _ in made]
            of_no_lap = sum(left_out for _, left_out in made)
            sieve.derived(table, of_no_lap)
            sieve.other_session(table, of_no_lap)
        stopless = [race.round for race, stops in zip(races, frames["pit_stops"], strict=True) if stops.empty]
        if stopless:
            sieve.report.note(f"pit stops of {season}: OpenF1 has none of rounds {', '.join(map(str, stopless))}")
        raw = RawSeason(
            season=season,
            races=self._races(races, sieve),
            results=_sifted(
                "entries",
                [openf1_results.make_results(race, people) for race in races],
                sieve,
                (entries.RESULT_RULES, entries.ENTRY_KEY, entries.RESULT_CONTENT),
            ),
            qualifying=_sifted(
                "qualifying",
                [openf1_results.make_qualifying(race, people) for race in races],
                sieve,
                (entries.QUALIFYING_RULES, entries.ENTRY_KEY, entries.QUALIFYING_CONTENT),
            ),
            circuits=circuits.circuit_facts(),
            drivers=people[["driver_id", "given_name", "family_name"]].dropna().drop_duplicates("driver_id"),
            constructors=people[["constructor_id", "team_name"]]
            .dropna()
            .drop_duplicates("constructor_id")
            .rename(columns={"team_name": "name"}),
            origins=dict.fromkeys(starts, LIGHTS_OUT_S),
            **{table: _sifted(table, frames[table], sieve, rules) for table, rules in _TIMED.items()},
        )
        tables = assemble(raw, self.name, sieve)
        official = tables.tables["entries"]
        every = openf1_results.with_provisional(official, _on_the_road(races, starts, people))
        sieve.derived("entries", len(every) - len(official))
        whole = None if is_whole else frozenset(race.round for race in races)
        return replace(tables, tables={**tables.tables, "entries": every}, rounds=whole)

    def _races(self, races: list[RaceAnswers], sieve: Sieve) -> pd.DataFrame:
        frame = pd.DataFrame(
            {
                "season": [race.season for race in races],
                "round": [race.round for race in races],
                "name": [race.weekend.name for race in races],
                "circuit_id": [circuits.circuit_id_of_openf1(race.weekend.circuit) for race in races],
                "race_start": [race.weekend.race_start for race in races],
                "qualifying_start": pd.to_datetime([race.weekend.qualifying_start for race in races], utc=True).as_unit("us"),
                FILE: [race.weekend.file for race in races],
                ROW: [race.weekend.row for race in races],
            }
        )
        known = sieve.check("races", sieve.asked("races", frame), entries.RACE_RULES)
        return circuits.attach_courses(known, self.paths, sieve.report)


def _sifted(table: str, frames: list[pd.DataFrame], sieve: Sieve, rules: tuple[list[Rule], list[str], list[str]]) -> pd.DataFrame:
    """The frames of all races as one, checked, one row a key."""
    full = [frame for frame in frames if len(frame)]
    if not full:
        return pd.DataFrame()
    broken, key, content = rules
    checked = sieve.check(table, sieve.asked(table, pd.concat(full, ignore_index=True)), broken)
    return sieve.union(table, [checked], key, content)


def _on_the_road(races: list[RaceAnswers], starts: Mapping[int, pd.Timestamp], people: pd.DataFrame) -> pd.DataFrame:
    """`round, code, position, known`: the classification at the flag of every race, on the clock of the laps."""
    found = []
    for race in races:
        order = openf1_results.classification_at_flag(race.laps, race.result)
        codes = people[people["round"] == race.round].set_index("driver_number")["code"]
        known = race.weekend.race_start + (order["finish"] - starts[race.round])
        found.append(
            pd.DataFrame(
                {"round": race.round, "code": order["driver_number"].map(codes), "position": order["position"], "known": known}
            )
        )
    return pd.concat(found, ignore_index=True)
