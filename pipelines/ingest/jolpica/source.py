"""The `jolpica` source: the official record from the Jolpica (Ergast-compatible) API, laps and pit stops included.

What a season of 24 races costs: the calendar 1 request, results and qualifying 5 each (100 rows a page), sprints 2, and for each
race its lap chart 9 to 14, its pit stops 1 and its standings 2 - some 370 requests of the 500 an hour that the service allows, so
a second season follows in the next hour. Of four rounds or fewer, results, qualifying and sprints are asked race by race.

What is kept is asked for again only while it can change: the documents of a season until the end of January after it (every 12
hours, every hour in the two weeks after a race), those of one race for two weeks after it. A body that was fetched while it could
still change is asked for once more afterwards. `refresh` asks for everything again, so that later corrections are seen.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import pandas as pd

from feature_repo.settings import Settings
from pipelines.errors import SourceMissingError, SourcePausedError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.canonical.assemble import assemble
from pipelines.ingest.canonical.sieve import Sieve
from pipelines.ingest.catalogue import limits
from pipelines.ingest.jolpica import tables
from pipelines.ingest.jolpica.pages import Page, PagesDifferError, read_pages
from pipelines.ingest.jolpica.season import RaceDocuments, SeasonDocuments, raw_season
from pipelines.ingest.rounds import listed, rounds_to_read
from pipelines.ingest.web.ages import race_age_s, season_age_s
from pipelines.ingest.web.client import PoliteClient

logger = logging.getLogger(__name__)

PAGE_ROWS = 100  # the most the service gives; a larger limit is answered with 100
FEW_ROUNDS = 4  # up to here a request a round and document is less than the whole season's pages
FIRST_LAPS, FIRST_PIT_STOPS = 1996, 2011  # before, the service has none
_CONFIRM_S = -1.0  # no answer is as young as that


class JolpicaSource:
    """Reads seasons, or some rounds of them, through a client that keeps what it was given and respects the service's limits."""

    name = "jolpica"
    is_simulated = False

    def __init__(
        self,
        settings: Settings,
        *,
        rounds: Sequence[int] | None = None,
        refresh: bool = False,
        paths: Sequence[Path] = (),
        client: PoliteClient | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what to ask for; nothing is asked yet.

        Args:
            settings: the service's URL (`jolpica_url`) and where responses are kept (`cache_dir`).
            rounds: rounds of every season; None: all.
            refresh: ask again for what is kept.
            paths: folders whose `f1db/races.csv` know courses that our own table does not.
            client: another client than one with the service's published limits; whoever made it closes it.
            clock: epoch seconds, for the age of what is kept.
        """
        self._base_url = settings.jolpica_url.rstrip("/")
        self._client = client or PoliteClient(self.name, self._base_url, settings.cache_dir, limits(self.name), refresh=refresh)
        self._is_own_client = client is None
        self._rounds = None if rounds is None else sorted(set(rounds))
        self._paths = list(paths)
        self._clock = clock

    def fingerprint(self) -> None:
        """Not known before the service is asked."""
        return

    def read(self, seasons: Sequence[int], report: IngestReport) -> Iterator[SeasonTables]:
        """Yield the seasons asked for, ascending; see `Source.read`. A source is read once."""
        asked = sorted(set(seasons))
        sieve = Sieve(report, asked)
        try:
            for season in asked:
                yield from self._read_season(season, asked, sieve)
            self._client.finish_refresh()
        finally:
            if self._is_own_client:
                self._client.close()

    def _read_season(self, season: int, asked: list[int], sieve: Sieve) -> Iterator[SeasonTables]:
        documents = self._season_documents(season, asked, sieve.report)
        held = documents.held()
        if not held:
            which = "any race" if self._rounds is None else f"rounds {listed(self._rounds)}"
            raise SourceMissingError(
                f"jolpica: season {season}: got no results of {which}, expected those of races that were held; ask for other "
                "seasons or rounds, or again after the race"
            )
        races: dict[int, RaceDocuments] = {}
        pause: SourcePausedError | None = None
        for round_ in held:
            try:
                races[round_] = self._race_documents(season, round_, documents)
            except SourcePausedError as error:
                pause = error
                break
        if races:
            complete = frozenset(races)
            raw = raw_season(documents, races, self._paths, sieve, is_whole=pause is None)
            whole = self._rounds is None and pause is None
            yield replace(assemble(raw, self.name, sieve), rounds=None if whole else complete)
        if pause is not None:
            raise SourcePausedError(
                f"{pause} (season {season}: {len(races)} of {len(held)} races are complete)", pause.retry_at
            ) from pause

    def _season_documents(self, season: int, asked: list[int], report: IngestReport) -> SeasonDocuments:
        """Calendar, results, qualifying and sprints of the season, cut to the rounds asked for.

        Raises:
            SourceMissingError: the service has no such season, or not the rounds.
        """
        age = season_age_s(season, None, self._clock())
        pages = self._pages("schedule", f"{season}.json", age)
        calendar = tables.schedule(pages)
        if calendar.empty:
            raise SourceMissingError(
                f"jolpica: season {season}: got an empty calendar, expected races; ask for seasons from 1950 to the current one"
            )
        known = {int(round_) for round_ in calendar["round"]}
        rounds = rounds_to_read(self.name, season, self._rounds, known, report, is_only_season=len(asked) == 1)
        calendar = calendar[calendar["round"].isin(rounds)].reset_index(drop=True)
        age = season_age_s(season, calendar["race_start"], self._clock())
        few = self._rounds is not None and len(rounds) <= FEW_ROUNDS
        scopes = [f"{season}/{round_}" for round_ in rounds] if few else [f"{season}"]
        with_sprint = calendar.loc[calendar["sprint_date"].notna(), "round"]
        sprints = [f"{season}/{int(round_)}" for round_ in with_sprint] if few else scopes[: len(with_sprint)]

        def all_of(document: str, scopes: list[str]) -> list[Page]:
            return [page for scope in scopes for page in self._pages(document, f"{scope}/{document}.json", age)]

        def wanted(frame: pd.DataFrame) -> pd.DataFrame:
            return frame[frame["round"].isin(rounds)].reset_index(drop=True)

        results = all_of("results", scopes)
        return SeasonDocuments(
            season=season,
            calendar=calendar,
            circuits=tables.circuits(pages),
            results=wanted(tables.results(results)),
            drivers=tables.drivers(results),
            constructors=tables.constructors(results),
            qualifying=wanted(tables.qualifying(all_of("qualifying", scopes))),
            sprint=wanted(tables.sprint(all_of("sprint", sprints))),
        )

    def _race_documents(self, season: int, round_: int, documents: SeasonDocuments) -> RaceDocuments:
        started = time.perf_counter()
        requests = self._client.requests
        start = documents.calendar.loc[documents.calendar["round"] == round_, "race_start"].iloc[0]
        age = race_age_s(season, start, self._clock())

        def pages(document: str, *, exists: bool = True) -> list[Page]:
            return self._pages(document, f"{season}/{round_}/{document}.json", age) if exists else []

        race = RaceDocuments(
            laps=tables.laps(pages("laps", exists=season >= FIRST_LAPS)),
            pit_stops=tables.pit_stops(pages("pitstops", exists=season >= FIRST_PIT_STOPS)),
            driver_standings=tables.driver_standings(pages("driverstandings")),
            constructor_standings=tables.constructor_standings(pages("constructorstandings")),
        )
        logger.info(
            "jolpica_race season=%s round=%s laps=%s pit_stops=%s requests=%s seconds=%.1f",
            season,
            round_,
            len(race.laps),
            len(race.pit_stops),
            self._client.requests - requests,
            time.perf_counter() - started,
        )
        return race

    def _pages(self, document: str, path: str, max_age_s: float | None) -> list[Page]:
        """All pages of a document; once more, confirmed by the service, where kept and new pages do not belong together."""
        try:
            return read_pages(partial(self._page, path, max_age_s), document)
        except PagesDifferError as error:
            logger.info("jolpica_pages_differ path=%s reason=%s next=ask_again", path, error)
            return read_pages(partial(self._page, path, _CONFIRM_S), document)

    def _page(self, path: str, max_age_s: float | None, offset: int, check: Callable[[Page], object]) -> Page:
        params = {"limit": PAGE_ROWS} | ({"offset": offset} if offset else {})
        name = f"{path}?{urlencode(params)}"
        url = f"{self._base_url}/{name}"
        fetched = self._client.get_json(path, params, max_age_s=max_age_s, validate=lambda body: check(Page(url, name, body)))
        return Page(url, name, fetched.data, self._client.kept_file(path, params))
