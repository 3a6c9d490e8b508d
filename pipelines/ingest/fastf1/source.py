"""The `fastf1` source: races through the FastF1 library, timing from F1's live timing archive, results from Jolpica.

A race is taken when all of it is there: FastF1 turns most failures into missing data, so what it swallowed is looked at after
every race, and tried again or waited for. A race costs about 12 requests; FastF1 allows itself 200 an hour of Jolpica (three a
race) and 500 an hour of all services, so a season of 24 races takes the better part of an hour's.

FastF1 sends the archive a Formula 1 account's token where `F1_USERNAME` and `F1_PASSWORD` are set or it is signed in already;
nobody is ever asked for a password here.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import requests
from fastf1.ergast import Ergast
from fastf1.exceptions import ErgastError, RateLimitExceededError

from feature_repo.settings import Settings
from pipelines.errors import SourceFormatError, SourceMissingError, SourcePausedError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.canonical import circuits, entries
from pipelines.ingest.canonical.assemble import RawSeason, assemble
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.fastf1.library import KEPT, Watch, fastf1_library, forget_answers, when_again
from pipelines.ingest.fastf1.session import (
    OF_THE_ARCHIVE,
    IncompleteError,
    live_frames,
    load_race,
    read_page,
    reveal,
    schedule_of,
    session_starts,
)
from pipelines.ingest.fastf1.tables import LIVE_TABLES, RawFrames
from pipelines.ingest.jolpica import tables as jolpica_tables
from pipelines.ingest.jolpica.pages import Page
from pipelines.ingest.rounds import as_option, listed, rounds_to_read
from pipelines.ingest.web.ages import SETTLED_AFTER_S
from pipelines.ingest.web.answers import ask_again_at, from_then_on

logger = logging.getLogger(__name__)

FIRST_SEASON = 2018  # of the live timing archive
TRIES = 3
_FIRST_BACK_OFF_S = 2.0
_SAME_RACE = pd.Timedelta(days=2)  # two calendars may date a race at night differently
_Answer = TypeVar("_Answer")


@dataclass
class _Season:
    """What has been read of a season: raw frames of the complete races, and pages of drivers and teams."""

    calendar: pd.DataFrame
    places: pd.DataFrame
    scheduled: pd.DataFrame
    frames: RawFrames = field(default_factory=RawFrames)
    results: list[Page] = field(default_factory=list)
    complete: list[int] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)


class FastF1Source:
    """Reads seasons, or some rounds of them, through FastF1; what it fetched stays in its cache below `cache/fastf1`."""

    name = "fastf1"
    is_simulated = False

    def __init__(
        self,
        settings: Settings,
        *,
        rounds: Sequence[int] | None = None,
        refresh: bool = False,
        paths: Sequence[Path] = (),
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what to ask for; nothing is asked yet.

        Args:
            settings: addresses of the services (`livetiming_url`, `schedule_url`, `jolpica_url`) and where the cache is.
            rounds: rounds of every season; None: all.
            refresh: confirm or download again what is kept.
            paths: folders whose `f1db/races.csv` know courses that our own table does not.
            sleep: called with seconds between two tries.
            clock: epoch seconds, to tell races that are still to be held.
        """
        self._settings = settings
        self._rounds = None if rounds is None else sorted(set(rounds))
        self._refresh = refresh
        self._paths = list(paths)
        self._sleep, self._clock = sleep, clock

    def fingerprint(self) -> None:
        """Not known before the services are asked."""
        return

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield the seasons asked for, ascending; see `Source.read`."""
        asked = sorted(set(seasons))
        early = [season for season in asked if season < FIRST_SEASON]
        if early:
            raise SourceMissingError(
                f"fastf1: got seasons {', '.join(map(str, early))}, expected {FIRST_SEASON} or later: there is no live timing of "
                "earlier races; use --source jolpica"
            )
        sieve = Sieve(report, asked)
        with fastf1_library(self._settings, refresh=self._refresh) as watch:
            for season in asked:
                yield from self._read_season(season, asked, sieve, watch)

    def _read_season(self, season: int, asked: list[int], sieve: Sieve, watch: Watch) -> Iterator[SeasonTables]:
        events = self._ask(watch, f"schedule of {season}", lambda: schedule_of(season, watch))
        ergast = Ergast(result_type="raw", auto_cast=False, limit=100)
        page, calendar = self._ask(
            watch,
            f"calendar of {season}",
            lambda: read_page(ergast.get_race_schedule(season), f"{season}.json", "schedule", jolpica_tables.schedule),
        )
        if calendar.empty:
            raise SourceMissingError(f"fastf1: season {season}: got an empty calendar, expected races; ask for other seasons")
        known = {int(round_) for round_ in calendar["round"]}
        rounds = rounds_to_read(self.name, season, self._rounds, known, sieve.report, is_only_season=len(asked) == 1)
        read = _Season(calendar, jolpica_tables.circuits([page]), session_starts(events))
        pause: SourcePausedError | None = None
        for round_ in rounds:
            try:
                self._read_race(season, round_, events, read, sieve, watch)
            except SourcePausedError as error:
                pause = error
                break
        if read.complete:
            whole = self._rounds is None and pause is None and not read.left_out
            yield self._tables(season, read, sieve, None if whole else frozenset(read.complete))
        if pause is not None:
            done = f"season {season}: {len(read.complete)} of {len(rounds)} races are complete"
            rest = [later for later in rounds if later > round_]
            if rest and not isinstance(pause.__cause__, RateLimitExceededError):  # it may be this race alone
                done += f"; --rounds {as_option(rest)} goes on without round {round_}"
            raise SourcePausedError(f"{pause} ({done})", pause.retry_at) from pause
        if not read.complete:
            raise SourceMissingError(
                f"fastf1: season {season}: got no race with results and timing of rounds {listed(rounds)}, expected one; ask "
                "for other rounds, or again after the race"
            )

    def _read_race(self, season: int, round_: int, events: Any, read: _Season, sieve: Sieve, watch: Watch) -> None:
        """Add one race to what was read, or say why it is left out.

        Raises:
            SourcePausedError: a limit was reached, or a service does not answer.
            SourceFormatError: an answer is not as documented.
        """
        started = time.perf_counter()
        where = f"season {season} round {round_}"
        start = read.scheduled.set_index("round")["race_start"].get(round_, pd.NaT)
        official = read.calendar.set_index("round")["race_start"].get(round_, pd.NaT)
        if pd.isna(start) or (pd.notna(official) and abs(start - official) > _SAME_RACE):
            self._leave_out(read, round_, f"{where}: FastF1's schedule has it on {start}, Jolpica on {official}", sieve)
            return
        if start.timestamp() > self._clock():
            sieve.report.note(f"fastf1: {where}: to be held on {start:%Y-%m-%d}; not ingested")
            return
        ergast = Ergast(result_type="raw", auto_cast=False)
        name = f"{season}/{round_}"
        results, rows = self._ask(
            watch,
            f"results of {where}",
            lambda: read_page(ergast.get_race_results(season, round_), f"{name}/results.json", "results", jolpica_tables.results),
        )
        if rows.empty:
            sieve.report.note(f"fastf1: {where}: there are no results: cancelled, or not published yet; not ingested")
            return
        _, qualifying = self._ask(
            watch,
            f"qualifying of {where}",
            lambda: read_page(
                ergast.get_qualifying_results(season, round_), f"{name}/qualifying.json", "qualifying", jolpica_tables.qualifying
            ),
        )
        session = events.get_event_by_round(round_).get_session("Race")
        longest = rows["laps_completed"].max()
        is_settled = self._clock() - start.timestamp() > SETTLED_AFTER_S
        missing = self._ask(watch, f"timing of {where}", lambda: load_race(session, watch, longest, is_settled=is_settled))
        if missing is not None:
            self._leave_out(read, round_, f"{where}: {missing}", sieve)
            return
        read.results.append(results)
        read.frames.add("entries", rows, sieve)
        read.frames.add("qualifying", qualifying, sieve)
        live = live_frames(session, season, round_)
        for table, frame in live.items():
            read.frames.add(table, frame, sieve)
        for table in (table for table in OF_THE_ARCHIVE if table not in live):
            sieve.report.note(f"fastf1: {where}: the live timing archive has no {table.replace('_', ' ')}")
        read.complete.append(round_)
        logger.info(
            "fastf1_race season=%s round=%s laps=%s seconds=%.1f",
            season,
            round_,
            len(session.laps),
            time.perf_counter() - started,
        )

    def _leave_out(self, read: _Season, round_: int, why: str, sieve: Sieve) -> None:
        read.left_out.append(round_)
        sieve.report.note(f"fastf1: {why}; not ingested")

    def _ask(self, watch: Watch, what: str, ask: Callable[[], _Answer]) -> _Answer:
        """The answer, after as many tries as are allowed.

        Raises:
            SourcePausedError: a limit was reached, or there is no answer.
            SourceFormatError: the answer is not as documented; it is not kept.
        """
        for attempt in range(1, TRIES + 1):
            watch.forget()
            try:
                answer = ask()
                reveal(watch)
            except RateLimitExceededError as error:
                retry_at = when_again(error)
                raise SourcePausedError(
                    f"fastf1: {what}: got a limit of requests reached ({error}), expected an answer; {from_then_on(retry_at)} "
                    f"{KEPT}",
                    retry_at,
                ) from error
            except (IncompleteError, ErgastError, requests.RequestException, LookupError, TypeError, ValueError) as error:
                if not isinstance(error, IncompleteError | requests.RequestException):
                    forget_answers(watch.heard)  # they are not what they should be
                happened = " ".join(str(error).split())
                if not isinstance(error, IncompleteError):
                    happened = f"{type(error).__name__}: {happened}"
                if attempt == TRIES and isinstance(error, SourceFormatError):
                    raise
                if attempt == TRIES:
                    retry_at = ask_again_at(time.time())
                    raise SourcePausedError(
                        f"fastf1: {what}: got {happened} (tried {TRIES} times), expected an answer; {from_then_on(retry_at)} "
                        f"{KEPT}",
                        retry_at,
                    ) from error
                wait_s = _FIRST_BACK_OFF_S * 2 ** (attempt - 1)
                logger.warning(
                    "request_failed service=fastf1 what=%s attempt=%d reason=%s retry_in_s=%.0f", what, attempt, happened, wait_s
                )
                self._sleep(wait_s)
            else:
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _tables(self, season: int, read: _Season, sieve: Sieve, rounds: frozenset[int] | None) -> SeasonTables:
        calendar = read.calendar[read.calendar["round"].isin(read.complete)].reset_index(drop=True)
        read.frames.add("races", entries.with_times(calendar, [read.scheduled]), sieve)
        results = read.frames.get("entries", sieve)
        raw = RawSeason(
            season=season,
            races=circuits.attach_courses(read.frames.get("races", sieve), self._paths, sieve.report),
            results=results,
            qualifying=read.frames.get("qualifying", sieve),
            circuits=read.places.merge(circuits.circuit_facts()[["circuit_id", "altitude_m"]], how="left", on="circuit_id"),
            drivers=jolpica_tables.drivers(read.results),
            constructors=jolpica_tables.constructors(read.results),
            **{table: read.frames.get(table, sieve) for table in LIVE_TABLES},
        )
        return replace(assemble(raw, self.name, sieve), rounds=rounds)
