"""OpenF1 into the lake: whatever goes wrong, what was ingested stays as it was, and a service that heals completes it."""

import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from killed_run import kill_on_the_way
from openf1_made import FIRST, NOTHING, REQUESTS, SEASON, THIRD, authored, book, unmarked
from replay_server import Clock, ReplayServer, Request, Response, html_page, once, reset, slow, too_many, truncated, wrong_type

from feature_repo.files import sha256_file
from feature_repo.settings import Settings
from pipelines.errors import SourceFormatError, SourceMissingError, SourcePausedError
from pipelines.ingest.base import IngestReport, SeasonTables
from pipelines.ingest.openf1 import source as openf1
from pipelines.ingest.openf1.source import OpenF1Source
from pipelines.ingest.run import ingest
from pipelines.ingest.web.client import PoliteClient
from pipelines.lake import Lake
from pipelines.schemas import conform

DAY = 86_400.0
AFTER = pd.Timestamp("2023-06-01T12:00Z").timestamp()  # the season is over
OBSERVED = pd.Timestamp("2026-01-01T00:00:00Z")


@dataclass
class Home:
    """A home whose OpenF1 is a server of ours; waiting moves the clock alone, so the real limits hold and nobody waits."""

    settings: Settings
    server: ReplayServer
    clock: Clock

    def ingest(self, **options: Any) -> IngestReport:
        """One run of its own."""
        source = OpenF1Source(self.settings, clock=self.clock, **options)
        return ingest(self.settings, source, [SEASON], observed_at=OBSERVED)

    def hashes(self) -> dict[str, str]:
        """Every file of the lake and of what the sources said."""
        roots = [self.settings.lake_dir, self.settings.sources_dir]
        return {str(path): sha256_file(path) for root in roots for path in sorted(root.rglob("*.parquet"))}

    def read(self, **options: Any) -> list[SeasonTables]:
        """What one run of its own would ingest."""
        report = IngestReport("openf1", is_simulated=False, seasons=[SEASON])
        return list(OpenF1Source(self.settings, clock=self.clock, **options).read([SEASON], report))

    def lake(self) -> dict[str, str]:
        """Partition -> hash."""
        return Lake(self.settings.lake_dir).hashes()

    def races(self) -> dict[int, str]:
        """Round -> name, as the lake has it."""
        races = Lake(self.settings.lake_dir).read("races", [SEASON])
        return dict(zip(races["round"].tolist(), races["name"].tolist(), strict=True))


@pytest.fixture
def home(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    clock = Clock(AFTER)
    client = functools.partial(PoliteClient, sleep=clock.sleep, clock=clock, timeout_s=0.3)
    monkeypatch.setattr(openf1, "PoliteClient", client)
    with ReplayServer() as server:
        server.serve(authored)
        yield Home(settings.model_copy(update={"openf1_url": f"{server.url}/v1"}), server, clock)


BOTH = {1: "First Grand Prix", 2: "Third Grand Prix"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The season read at once from a service without faults. Not to be changed: see `copy_of`."""
    with ReplayServer() as server, pytest.MonkeyPatch.context() as patch:
        server.serve(authored)
        clock = Clock(AFTER)
        patch.setattr(openf1, "PoliteClient", functools.partial(PoliteClient, sleep=clock.sleep, clock=clock))
        home = Home(Settings(home=tmp_path_factory.mktemp("whole") / "home", openf1_url=f"{server.url}/v1"), server, clock)
        report = home.ingest()
        assert (report.quarantine_reasons, report.complete) == ({}, [SEASON])
        assert home.races() == BOTH
        yield home


def copy_of(whole: Home, home: Home) -> Home:
    """`home` with the lake, and what the sources said, of `whole`; its cache is empty."""
    for folder in ("lake_dir", "sources_dir", "state_dir"):
        shutil.copytree(getattr(whole.settings, folder), getattr(home.settings, folder), dirs_exist_ok=True)
    return home


LAPS = book()[f"laps?session_key={THIRD}"]
LASTING: dict[str, tuple[str, Response, type[Exception], str]] = {
    "truncated": ("laps", truncated(LAPS), SourceFormatError, r"laps\?session_key=9304.*expected one whole JSON document"),
    "html": ("laps", html_page(), SourceFormatError, r"text/html.*expected application/json"),
    "wrong type": ("laps", wrong_type(), SourceFormatError, r"text/csv.*expected application/json"),
    "no laps": ("laps", NOTHING, SourceFormatError, r"got no message 'GREEN LIGHT"),
    "429": ("laps", too_many(1800), SourcePausedError, r"HTTP 429.*from 2023-06-01 12:30:.. UTC on"),
    "429 without a word": ("laps", too_many(), SourcePausedError, r"HTTP 429.*from 2023-06-01 13:0.:.. UTC on"),
    "reset": ("laps", reset(), SourcePausedError, r"reset by peer.*from 2023-06-01 13:0.:.. UTC on"),
    "slow": ("laps", slow(LAPS, 20.0), SourcePausedError, r"incomplete after 0\.3 s|ReadTimeout"),
    "an empty season": ("sessions", Response(body=[]), SourceMissingError, r"season 2022: got no race in http.*--refresh"),
    "no season": ("sessions", NOTHING, SourceMissingError, r"season 2022: got no race in http.*--refresh"),
}


@pytest.mark.parametrize(("endpoint", "fault", "error", "said"), LASTING.values(), ids=LASTING)
def test_a_lasting_fault_leaves_every_byte_and_a_healed_service_completes_the_season(
    home: Home, whole: Home, endpoint: str, fault: Response, error: type[Exception], said: str
) -> None:
    copy_of(whole, home)
    before = home.hashes()
    is_broken = True

    def broken(request: Request) -> Response | None:
        return fault if is_broken and request.params.get("session_key", str(THIRD)) == str(THIRD) else None

    home.server.on(f"/v1/{endpoint}", broken)
    with pytest.raises(error, match=said):
        home.ingest(rounds=[2])
    assert home.hashes() == before
    is_broken = False
    home.clock.now += 3601
    (season,) = home.read(rounds=[2])
    laps = Lake(whole.settings.lake_dir).read("laps", [SEASON]).query("round == 2").reset_index(drop=True)
    pd.testing.assert_frame_equal(conform("laps", season.tables["laps"]), laps)


def test_passing_faults_all_over_a_season_change_nothing(home: Home, whole: Home) -> None:
    faults = {
        "sessions": truncated(LAPS),
        "laps": html_page(),
        "stints": too_many(30),
        "session_result": reset(),
        "drivers": wrong_type(),
    }
    for endpoint, fault in faults.items():
        home.server.on(f"/v1/{endpoint}", once(fault))
    assert home.ingest().complete == [SEASON]
    assert home.lake() == whole.lake()
    assert len(home.server.requests) == REQUESTS + len(faults)


@pytest.mark.parametrize("nothing", [NOTHING, Response(body=[])], ids=["404", "empty list"])
def test_a_result_that_is_gone_for_a_while_renumbers_nothing(home: Home, whole: Home, nothing: Response) -> None:
    copy_of(whole, home)
    before = home.hashes()
    is_gone = True
    home.server.on("/v1/session_result", lambda _: nothing if is_gone else None, {"session_key": FIRST})
    report = home.ingest()
    assert home.hashes() == before
    assert report.rounds == {SEASON: [2]}
    told = "First Grand Prix on 2022-03-06, round 1: OpenF1 has no result: cancelled, or not out yet; not ingested"
    assert f"season 2022: {told}" in report.notes
    is_gone = False
    home.clock.now += 3601
    (season,) = home.read()
    assert season.rounds is None
    assert season.tables["races"]["round"].tolist() == [1, 2]


def test_without_a_calendar_nothing_is_counted_on_beyond_a_race_without_a_result(home: Home) -> None:
    home.server.on("/v1/meetings", unmarked)
    with pytest.raises(SourcePausedError) as paused:
        home.ingest()
    assert "Second Grand Prix on 2022-03-20: got no result from" in str(paused.value)
    assert "in the lake already: 2022 rounds 1" in str(paused.value)
    assert paused.value.retry_at is not None
    assert 0 <= home.clock.now + 3600 - paused.value.retry_at.timestamp() < 60
    assert home.races() == {1: "First Grand Prix"}
    with pytest.raises(SourcePausedError, match="Second Grand Prix"):
        home.read(rounds=[2])
    (first,) = home.read(rounds=[1])  # nothing is in doubt before it
    assert first.rounds == {1}


@dataclass
class Calendar:
    """Another source, which knows the races of the season."""

    races: pd.DataFrame
    name: str = "jolpica"
    is_simulated: bool = False

    def fingerprint(self) -> None:
        return None

    def read(self, seasons: list[int], report: IngestReport) -> Iterator[SeasonTables]:
        report.table("races").rows_read += len(self.races)
        yield SeasonTables(SEASON, {"races": self.races})


def test_rounds_are_those_of_the_calendar_in_the_lake(home: Home, whole: Home) -> None:
    """Jolpica leaves the number of a cancelled race free, and may date another one otherwise."""
    races = Lake(whole.settings.lake_dir).read("races", [SEASON])
    is_third = races["round"] == 2
    official = races.assign(
        source="jolpica",
        round=races["round"].mask(is_third, 3),
        race_id=races["race_id"].mask(is_third, f"{SEASON}_03"),
        race_start=races["race_start"] - pd.Timedelta(days=1) * is_third,
    )
    ingest(home.settings, Calendar(official), [SEASON], observed_at=OBSERVED)
    home.server.on("/v1/meetings", unmarked)
    report = home.ingest()
    assert home.races() == {1: "First Grand Prix", 3: "Third Grand Prix"}
    told = "Second Grand Prix on 2022-03-20, round 2: OpenF1 has no result: cancelled, or not out yet; not ingested"
    assert f"season 2022: {told}" in report.notes


def test_what_was_counted_wrongly_before_does_not_stay(home: Home) -> None:
    """An earlier version took the third race for the first where the first one's result was missing."""
    home.server.on("/v1/meetings", [row for row in book()["meetings?year=2022"] if row["meeting_key"] != 901])
    home.server.on("/v1/sessions", [row for row in book()["sessions?year=2022"] if row["meeting_key"] != 901])
    home.ingest()
    assert home.races() == {1: "Third Grand Prix"}
    for endpoint in ("meetings", "sessions"):
        home.server.on(f"/v1/{endpoint}", authored)
    home.ingest(refresh=True)
    assert home.races() == BOTH


def test_a_wrong_address_is_named_and_the_right_one_works_at_once(home: Home) -> None:
    right = home.settings
    home.settings = right.model_copy(update={"openf1_url": home.server.url})
    for _ in range(2):
        with pytest.raises(SourceMissingError, match=rf"race in {home.server.url}/sessions.*PITWALL_OPENF1_URL.*--refresh"):
            home.ingest()
    assert len(home.server.requests) == 4  # that there is no season is never kept
    home.settings = right
    (season,) = home.read(rounds=[1])
    assert season.rounds == {1}


def test_a_season_under_way_is_looked_at_again_after_a_long_gap(home: Home) -> None:
    sessions = book()["sessions?year=2022"]
    home.server.on("/v1/sessions", [row for row in sessions if row["meeting_key"] in (900, 901)])  # no later ones are listed yet
    home.clock.now = pd.Timestamp("2022-03-25T00:00Z").timestamp()  # more than two weeks after the last one listed
    assert [season.tables["races"]["round"].tolist() for season in home.read()] == [[1]]
    home.server.on("/v1/sessions", sessions)
    home.clock.now = pd.Timestamp("2022-04-04T00:00Z").timestamp()
    assert [season.tables["races"]["round"].tolist() for season in home.read()] == [[1, 2]]


def test_what_can_change_is_asked_again_and_what_is_settled_is_not(home: Home) -> None:
    home.clock.now = pd.Timestamp("2022-04-04T00:00Z").timestamp()  # the day after the last race

    def asked_after(seconds: float) -> set[str]:
        home.clock.now += seconds
        home.server.requests.clear()
        home.read(rounds=[2])
        return {f"{request.path.removeprefix('/v1/')}?{request.query}" for request in home.server.requests}

    of_first = f"session_result?session_key={FIRST}"  # settled: the race was a month ago
    of_season = {f"sessions?year={SEASON}", f"meetings?year={SEASON}"}
    of_race = {f"{name}?session_key={THIRD}" for name in (*openf1._OF_RACE, "session_result")}
    of_race |= {"drivers?meeting_key=903", "session_result?session_key=9301", "starting_grid?session_key=9301"}
    assert asked_after(0) == {of_first} | of_season | of_race
    assert asked_after(1800) == set()
    assert asked_after(3600) == of_race
    assert asked_after(20 * DAY) == of_season | of_race  # once more, now that the race is settled
    nothing = f"pit?session_key={THIRD}"  # "there are none" is not believed for ever
    assert asked_after(400 * DAY) == of_season | {nothing}
    assert asked_after(3500) == set()


_CHILD = """
import sys
from pathlib import Path
from feature_repo.settings import Settings
from pipelines.ingest.openf1 import source as openf1
from pipelines.ingest.run import ingest
from pipelines.ingest.web.client import Limits

openf1.limits = lambda _: Limits(per_second=1e6)
settings = Settings(home=Path(sys.argv[1]), openf1_url=sys.argv[2])
ingest(settings, openf1.OpenF1Source(settings), [2022])
"""


def test_a_killed_run_downloads_nothing_twice(home: Home, tmp_path: Path, whole: Home) -> None:
    stuck = f"/v1/position?session_key={THIRD}"
    home.server.on("/v1/position", once(Response(delay_s=60)), {"session_key": THIRD})
    kill_on_the_way(
        _CHILD, str(home.settings.home), home.settings.openf1_url, folder=tmp_path, when=lambda: stuck in home.server.paths()
    )
    assert home.races() == {}
    home.clock.now = time.time()
    assert home.ingest().complete == [SEASON]
    assert home.lake() == whole.lake()
    asked = Counter(home.server.paths())
    assert asked.pop(stuck) == 2  # the answer that never came
    assert set(asked.values()) == {1}
    assert len(asked) == REQUESTS - 1


def test_a_paused_refresh_goes_on_where_it_was(home: Home, whole: Home) -> None:
    copy_of(whole, home)
    home.read()
    home.clock.now += 1
    home.server.on("/v1/weather", once(too_many(1800)), {"session_key": THIRD})
    home.server.requests.clear()
    with pytest.raises(SourcePausedError, match="in the lake already: 2022 rounds 1") as paused:
        home.ingest(refresh=True)
    assert home.lake() == whole.lake()
    assert paused.value.retry_at is not None
    home.clock.now = paused.value.retry_at.timestamp()
    assert home.ingest(refresh=True).complete == [SEASON]
    assert home.lake() == whole.lake()
    asked = Counter(home.server.paths())
    assert asked.pop(f"/v1/weather?session_key={THIRD}") == 2
    assert set(asked.values()) == {1}
    assert len(asked) == REQUESTS - 1


def test_its_connections_are_closed_when_it_is_read_or_fails(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    close: Callable[[PoliteClient], None] = PoliteClient.close
    monkeypatch.setattr(PoliteClient, "close", lambda client: (closed.append(client.name), close(client))[1])
    home.read(rounds=[1])
    home.server.on("/v1/sessions", NOTHING)
    with pytest.raises(SourceMissingError):
        home.read(refresh=True)
    assert closed == ["openf1", "openf1"]
