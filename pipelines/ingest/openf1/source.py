"""The `openf1` source: races since 2023 from the OpenF1 API, session by session.

Asked for: the meetings and sessions of a year, each race's result (which tells whether it was held), and nine lists more a race.
Bodies are kept on disk, so a run that was stopped goes on where it was. They are asked for again only while they can change: the
calendar until the end of January after the season (every 12 hours), those of a race for two weeks after it (every hour). That
there are no rows of something may be a passing fault, and is believed for an hour.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from feature_repo.settings import Settings
from pipelines.errors import SourceMissingError, SourcePausedError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.canonical import circuits, conditions, entries
from pipelines.ingest.canonical.assemble import RawSeason, assemble
from pipelines.ingest.canonical.checks import CHECKS, sifted
from pipelines.ingest.canonical.reading import FILE, ROW
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.catalogue import limits
from pipelines.ingest.openf1 import results as openf1_results
from pipelines.ingest.openf1 import tables as openf1_tables
from pipelines.ingest.openf1.answers import RaceWeekend, race_weekends, typed
from pipelines.ingest.openf1.counting import Counted, Standing, calendars, count_rounds
from pipelines.ingest.openf1.flags import LIGHTS_OUT_S, lights_out
from pipelines.ingest.openf1.tables import RaceAnswers
from pipelines.ingest.rounds import listed, rounds_to_read
from pipelines.ingest.web.ages import CHECK_OFTEN_S, race_age_s, season_age_s
from pipelines.ingest.web.answers import ask_again_at, from_then_on
from pipelines.ingest.web.client import Fetched, PoliteClient

logger = logging.getLogger(__name__)

_OF_RACE = ("laps", "stints", "pit", "position", "weather", "race_control")
_TIMED = ("laps", "stints", "pit_stops", "weather", "track_status", "race_control")
# a message that is repeated with another lap of the leader (8 of 2023 round 11) is the same message
_CONTROL = replace(CHECKS["race_control"], content=[name for name in conditions.CONTROL_CONTENT if name != "lap"])


class OpenF1Source:
    """Reads seasons, or some rounds of them, from the OpenF1 API."""

    name = "openf1"
    is_simulated = False

    def __init__(
        self,
        settings: Settings,
        *,
        rounds: Sequence[int] | None = None,
        refresh: bool = False,
        paths: Sequence[Path] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what is wanted; nothing is asked yet.

        Args:
            settings: where the API is, responses are kept, and the lake, whose races of other sources number the rounds.
            rounds: official rounds of every season asked for; None: all.
            refresh: ask again for what was kept.
            paths: folders whose `f1db/races.csv` knows the calendar, and courses that the built-in table does not.
            clock: epoch seconds, for the age of what is kept and to tell races that are still to be held.
        """
        self.client = PoliteClient(self.name, settings.openf1_url, settings.cache_dir, limits(self.name), refresh=refresh)
        self.rounds = None if rounds is None else frozenset(rounds)
        self.paths = list(paths)
        self._settings = settings
        self._clock = clock

    def fingerprint(self) -> None:
        """Not known before the service is asked."""

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield the seasons asked for, ascending; see `Source.read`. A source is read once."""
        asked = sorted(set(seasons))
        sieve = Sieve(report, asked)
        with self.client:
            for season in asked:
                yield from self._read_season(season, asked, sieve)
            self.client.finish_refresh()

    def _read_season(self, season: int, asked: list[int], sieve: Sieve) -> Iterator[SeasonTables]:
        counted = self._count(season)
        missing = set(self.rounds or ()) - set(counted.rounds)
        pause = self._doubt(season, counted.doubtful) if counted.doubtful and (self.rounds is None or missing) else None
        known = set(counted.rounds) | (missing if pause else set())
        wanted = rounds_to_read(self.name, season, self.rounds, known, sieve.report, is_only_season=len(asked) == 1)
        there = {round_: counted.rounds[round_] for round_ in wanted if round_ in counted.rounds}
        for weekends, why in (
            (counted.cancelled, "OpenF1 has no result, and the calendar no round: cancelled"),
            (counted.unplaced, "the calendar of other sources leaves no certain round for it"),
        ):
            for weekend in weekends:
                sieve.report.note(f"season {season}: {_named(weekend)}: {why}; not ingested")
        complete: list[RaceAnswers] = []
        standings: dict[int, Standing] = {}
        try:
            standings = self._standings(season, there, sieve.report)
            for round_, weekend in there.items():
                if standings[round_] != "held":
                    continue
                complete.append(self._read_race(season, round_, weekend))
                logger.info(
                    "race_read source=%s season=%s round=%s name=%r requests=%s from_cache=%s",
                    *(self.name, season, round_, weekend.name, self.client.requests, self.client.hits),
                )
        except SourcePausedError as error:
            pause = error
        if complete:
            in_doubt = pause is not None or "silent" in standings.values() or counted.unplaced
            yield self._assemble(season, complete, sieve, is_whole=self.rounds is None and not in_doubt)
        if pause is not None:
            done = f"(season {season}: {len(complete)} of {len(there)} races are complete)"
            raise SourcePausedError(f"{pause} {done}", pause.retry_at) from pause
        if not complete:
            raise SourceMissingError(
                f"{self.name}: season {season}: got no race with a result among the rounds asked for, expected one; "
                "ask for rounds that were held"
            )

    def _ask(self, endpoint: str, max_age_s: float, absent_for_s: float = CHECK_OFTEN_S, **params: int) -> pd.DataFrame:
        """An endpoint's rows.

        Args:
            endpoint: one of `openf1_answers.FIELDS`.
            max_age_s: a kept body older than this is asked for again, seconds.
            absent_for_s: "no rows" may be a passing fault, and is believed for so long, seconds.
            params: filters.
        """
        url = f"{endpoint}?{'&'.join(f'{name}={value}' for name, value in params.items())}"
        frames: list[pd.DataFrame] = []

        def ask(max_age_s: float) -> Fetched:
            return self.client.get_json(
                endpoint,
                params,
                max_age_s=max_age_s,
                absent_for_s=absent_for_s,
                validate=lambda rows: frames.append(typed(endpoint, rows, url)),
            )

        fetched = ask(max_age_s)
        if fetched.from_cache and not fetched.data:  # an empty list says no more than a 404
            fetched = ask(min(max_age_s, absent_for_s))
        return frames[-1] if fetched.data is not None else typed(endpoint, None, url)

    def _result(self, weekend: RaceWeekend) -> pd.DataFrame:
        return self._ask("session_result", self._race_age_s(weekend), session_key=weekend.race_key)

    def _race_age_s(self, weekend: RaceWeekend) -> float:
        return race_age_s(weekend.race_start.year, weekend.race_start, self._clock())

    def _standing(self, weekend: RaceWeekend) -> Standing:
        now = pd.Timestamp(self._clock(), unit="s", tz="UTC")
        if weekend.race_start < now and len(self._result(weekend)) > 0:
            return "held"
        return "ahead" if weekend.race_end > now else "silent"

    def _count(self, season: int) -> Counted:
        """The season's weekends by round, up to the last round that is wanted.

        Raises:
            SourceMissingError: the service has no race of the season.
        """
        age_s = season_age_s(season, None, self._clock())
        sessions = self._ask("sessions", age_s, 0, year=season)
        weekends = race_weekends(self._ask("meetings", age_s, 0, year=season), sessions)
        if not weekends:
            raise SourceMissingError(
                f"{self.name}: season {season}: got no race in {self.client.url('sessions', {'year': season})}, expected some; "
                "OpenF1 begins with 2023: ask for another season or source, or check PITWALL_OPENF1_URL (it ends in /v1) and ask "
                "again (--refresh)"
            )
        last = None if self.rounds is None else max(self.rounds, default=0)
        official, every = calendars(self._settings, self.name, season, self.paths)
        counted = count_rounds(weekends, every, self._standing, last)
        if counted.unplaced and every != official:  # what we counted ourselves before may have been wrong
            counted = count_rounds(weekends, official, self._standing, last)
        return counted

    def _doubt(self, season: int, weekend: RaceWeekend) -> SourcePausedError:
        """Why no round is known from `weekend` on, and what helps."""
        url = self.client.url("session_result", {"session_key": weekend.race_key})
        retry_at = ask_again_at(self._clock())
        return SourcePausedError(
            f"{self.name}: season {season}: {_named(weekend)}: got no result from {url}, expected "
            "one, or a calendar that tells whether the race was held: rounds from there on cannot be counted; read the season "
            "from another source first (--source jolpica) or give a folder with f1db/races.csv (--path), or run the same "
            f"command again {from_then_on(retry_at)}",
            retry_at,
        )

    def _standings(self, season: int, rounds: Mapping[int, RaceWeekend], report: IngestReport) -> dict[int, Standing]:
        """Which races have a result; notes tell of the others."""
        standings = {round_: self._standing(weekend) for round_, weekend in rounds.items()}
        ahead = [round_ for round_, standing in standings.items() if standing == "ahead"]
        if ahead:
            report.note(f"season {season}: rounds {listed(ahead)} have not been held yet; not ingested")
        for round_ in (round_ for round_, standing in standings.items() if standing == "silent"):
            report.note(
                f"season {season}: {_named(rounds[round_])}, round {round_}: OpenF1 has no result: cancelled, or not out yet; "
                "not ingested"
            )
        return standings

    def _read_race(self, season: int, round_: int, weekend: RaceWeekend) -> RaceAnswers:
        age_s = self._race_age_s(weekend)
        lists = {name: self._ask(name, age_s, session_key=weekend.race_key) for name in _OF_RACE}
        drivers = self._ask("drivers", age_s, meeting_key=weekend.meeting_key)  # who qualified may not have raced
        key = weekend.qualifying_key
        # the starting grid has the key of the session that made it
        qualifying, grid = (
            self._ask(name, age_s, session_key=key) if key is not None else typed(name, [], name)
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
            sieve.report.note(f"pit stops of {season}: OpenF1 has none of rounds {listed(stopless)}")
        raw = RawSeason(
            season=season,
            races=self._races(races, sieve),
            results=_sifted("entries", [openf1_results.make_results(race, people) for race in races], sieve),
            qualifying=_sifted("qualifying", [openf1_results.make_qualifying(race, people) for race in races], sieve),
            circuits=circuits.circuit_facts(),
            drivers=people[["driver_id", "given_name", "family_name"]].dropna().drop_duplicates("driver_id"),
            constructors=people[["constructor_id", "team_name"]]
            .dropna()
            .drop_duplicates("constructor_id")
            .rename(columns={"team_name": "name"}),
            origins=dict.fromkeys(starts, LIGHTS_OUT_S),
            **{table: _sifted(table, frames[table], sieve) for table in _TIMED},
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


def _named(weekend: RaceWeekend) -> str:
    return f"{weekend.name} on {weekend.race_start:%Y-%m-%d}"


def _sifted(table: str, frames: list[pd.DataFrame], sieve: Sieve) -> pd.DataFrame:
    """The frames of all races as one, checked, one row a key."""
    full = [frame for frame in frames if len(frame)]
    if not full:
        return pd.DataFrame()
    return sifted(table, [pd.concat(full, ignore_index=True)], sieve, _CONTROL if table == "race_control" else None)


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
