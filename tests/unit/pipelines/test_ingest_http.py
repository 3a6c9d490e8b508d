"""The client of web services over a real socket: their faults, our limits, and the cache that survives both."""

import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jolpica_pages import jolpica_from_folder
from replay_server import (
    Clock,
    ReplayServer,
    Request,
    Response,
    cut_off,
    html_page,
    in_turn,
    once,
    reset,
    server_error,
    slow,
    too_many,
    truncated,
    wrong_type,
)

from feature_repo.errors import BadUsageError
from pipelines.errors import SourceFormatError, SourcePausedError
from pipelines.ingest.web import client as http
from pipelines.ingest.web.client import Limits, PoliteClient

AUTHORED = Path(__file__).resolve().parents[2] / "data" / "http"
RACE = {"season": "2030", "round": "1"}
START = 1_900_000_000.0  # epoch seconds
WIDE = Limits(per_second=1000)


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    with ReplayServer() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def client(server: ReplayServer, tmp_path: Path, clock: Clock) -> Iterator[Callable[..., PoliteClient]]:
    """Makes clients of the server that share one cache and one clock."""
    made: list[PoliteClient] = []

    def make(limits: Limits = WIDE, **options: Any) -> PoliteClient:
        made.append(PoliteClient("jolpica", server.url, tmp_path / "cache", limits, sleep=clock.sleep, clock=clock, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "jolpica").glob("*.response"))


class TestAnAnswer:
    def test_is_parsed_dated_and_asked_for_politely(self, server: ReplayServer, client: Callable[..., PoliteClient]) -> None:
        changed = "Sun, 03 Mar 2030 18:00:00 GMT"
        server.on("/2030.json", Response(body=RACE, headers={"Last-Modified": changed}), params={"limit": 100, "offset": 0})
        fetched = client().get_json("2030.json", {"offset": 0, "limit": 100})
        assert fetched.data == RACE
        assert fetched.url == f"{server.url}/2030.json?limit=100&offset=0"
        assert fetched.fetched_at == pd.Timestamp(START, unit="s", tz="UTC")
        assert fetched.last_modified == pd.Timestamp("2030-03-03T18:00:00Z")
        assert not fetched.from_cache
        assert server.requests[0].headers["user-agent"] == f"pitwall/{version('pitwall')}"

    def test_may_be_compressed_and_elsewhere(self, server: ReplayServer, client: Callable[..., PoliteClient]) -> None:
        server.on("/old.json", Response(status=301, headers={"Location": "/new.json"}))
        server.on("/new.json", Response(body=gzip.compress(json.dumps(RACE).encode()), headers={"Content-Encoding": "gzip"}))
        asking = client()
        assert asking.get_json("old.json").data == RACE
        assert asking.requests == 2  # the redirect is a request to the service too
        assert asking.get_json("old.json").data == RACE
        assert (asking.requests, asking.hits) == (2, 1)

    @pytest.mark.parametrize("url", ["api.jolpi.ca/ergast/f1", "ftp://example.org", "http://", "http://[::", ""])
    def test_needs_a_web_address(self, url: str, tmp_path: Path) -> None:
        with pytest.raises(BadUsageError, match="jolpica_url"):
            PoliteClient("jolpica", url, tmp_path, WIDE)


class TestTheCache:
    def test_downloads_nothing_twice(
        self, server: ReplayServer, client: Callable[..., PoliteClient], tmp_path: Path, clock: Clock
    ) -> None:
        server.serve(jolpica_from_folder(AUTHORED / "jolpica"))
        first = client()
        first.get_json("2030/1/laps.json", {"limit": 10, "offset": 0})
        first.get_json("2030/1/laps.json", {"limit": 10, "offset": 10})
        clock.now += 10 * 365 * 86_400
        again = client()
        pages = [again.get_json("2030/1/laps.json", {"limit": 10, "offset": offset}) for offset in (0, 10)]
        assert (first.requests, again.requests, again.hits) == (2, 0, 2)
        assert all(page.from_cache and page.fetched_at == pd.Timestamp(START, unit="s", tz="UTC") for page in pages)
        laps = [lap for page in pages for race in page.data["MRData"]["RaceTable"]["Races"] for lap in race["Laps"]]
        assert sum(len(lap["Timings"]) for lap in laps) == int(pages[0].data["MRData"]["total"]) == 17

    def test_confirms_what_is_older_than_allowed(
        self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> None:
        server.on("/a", Response(body=RACE, headers={"ETag": '"1"', "Last-Modified": "Sun, 03 Mar 2030 18:00:00 GMT"}))
        asking = client()
        asking.get_json("a")
        clock.now += 60
        assert asking.get_json("a", max_age_s=60).fetched_at == pd.Timestamp(START, unit="s", tz="UTC")
        assert asking.requests == 1
        clock.now += 1
        confirmed = asking.get_json("a", max_age_s=60)
        assert (asking.requests, confirmed.from_cache, confirmed.data) == (2, True, RACE)
        assert confirmed.fetched_at == pd.Timestamp(START + 61, unit="s", tz="UTC")
        assert server.requests[1].headers["if-none-match"] == '"1"'
        assert server.requests[1].headers["if-modified-since"] == "Sun, 03 Mar 2030 18:00:00 GMT"
        asking.get_json("a", max_age_s=60)
        assert asking.requests == 2

    def test_downloads_what_changed(self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock) -> None:
        server.on("/a", in_turn(Response(body=[1], headers={"ETag": '"1"'}), Response(body=[2], headers={"ETag": '"2"'})))
        asking = client()
        assert asking.get_json("a").data == [1]
        clock.now += 61
        changed = asking.get_json("a", max_age_s=60)
        assert (changed.data, changed.from_cache) == ([2], False)
        assert client().get_json("a").data == [2]

    def test_a_404_is_an_answer_only_where_the_caller_says_so_and_for_so_long(
        self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> None:
        asking = client()
        nothing = asking.get_json("none", absent_for_s=60)
        assert (nothing.data, asking.get_json("none", absent_for_s=60).from_cache) == (None, True)
        assert asking.requests == 1
        with pytest.raises(SourceFormatError, match="HTTP 404"):
            asking.get_json("none")
        assert asking.requests == 2  # refused at once
        clock.now += 61
        server.on("/none", [1])
        assert asking.get_json("none", absent_for_s=60).data == [1]

    def test_a_404_that_is_not_to_be_kept_is_asked_for_each_time(
        self, server: ReplayServer, client: Callable[..., PoliteClient], tmp_path: Path
    ) -> None:
        asking = client()
        assert [asking.get_json("none", absent_for_s=0).data for _ in range(2)] == [None, None]
        assert asking.requests == 2
        assert not kept_files(tmp_path)

    def test_a_404_does_not_displace_what_was_given_before(
        self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> None:
        server.on("/a", in_turn(Response(body=[1]), Response(status=404, body={}), Response(body=[2])))
        asking = client()
        asking.get_json("a", absent_for_s=60)
        clock.now += 61
        assert asking.get_json("a", max_age_s=60, absent_for_s=60).data is None
        assert asking.get_json("a").data == [1]
        assert asking.get_json("a", max_age_s=60, absent_for_s=60).data == [2]

    def test_what_one_base_url_answered_is_not_taken_for_the_word_of_another(
        self, server: ReplayServer, tmp_path: Path, clock: Clock
    ) -> None:
        server.on("/v1/a", [1])
        for base, data in ((server.url, None), (f"{server.url}/v1", [1]), (f"{server.url}/v1/", [1])):
            with PoliteClient("openf1", base, tmp_path, WIDE, sleep=clock.sleep, clock=clock) as asking:
                assert asking.get_json("a", absent_for_s=1e9).data == data
        assert server.paths() == ["/a", "/v1/a"]


class TestRefresh:
    """`refresh` asks for each URL once, however many runs that takes."""

    def test_asks_for_each_url_once(self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock) -> None:
        server.on("/a", in_turn(Response(body=[1]), Response(body=[2])))
        client().get_json("a")
        clock.now += 1
        refreshing = client(refresh=True)
        assert [refreshing.get_json("a").data, refreshing.get_json("a").data] == [[2], [2]]
        assert (refreshing.requests, refreshing.hits) == (1, 1)

    @pytest.fixture
    def run(
        self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> Callable[..., list[SourcePausedError]]:
        """Ask for eight lists under a limit of three an hour, and come back when told until all are there."""
        server.serve(in_turn(Response(body=[])))

        def run(*, refresh: bool, times: int = 100, later_s: float = 0.0) -> list[SourcePausedError]:
            pauses: list[SourcePausedError] = []
            clock.now += 1
            while len(pauses) < times:
                asking = client(Limits(per_second=1000, per_hour=3), refresh=refresh)
                try:
                    for number in range(8):
                        asking.get_json(f"{number}")
                except SourcePausedError as error:
                    pauses.append(error)
                    assert error.retry_at is not None
                    clock.now = error.retry_at.timestamp() + later_s
                else:
                    asking.finish_refresh()
                    break
            return pauses

        return run

    def test_under_an_hourly_limit_goes_on_until_it_is_done(
        self, server: ReplayServer, run: Callable[..., list[SourcePausedError]]
    ) -> None:
        assert len(run(refresh=False)) == 2
        assert len(run(refresh=True)) == 3  # of the first hour one request was left
        assert sorted(server.paths()) == sorted([f"/{number}" for number in range(8)] * 2)
        assert len(run(refresh=True)) == 2  # the one before is done, so this one begins anew; two requests were left
        assert len(server.requests) == 24

    def test_that_nobody_came_back_to_for_days_begins_anew(
        self, server: ReplayServer, run: Callable[..., list[SourcePausedError]]
    ) -> None:
        run(refresh=True, times=1, later_s=47 * 3600)
        run(refresh=True, times=1, later_s=49 * 3600)
        assert len(server.requests) == 6
        run(refresh=True)
        assert len(server.requests) == 6 + 8

    def test_does_not_keep_ordinary_runs_from_what_is_kept(
        self, server: ReplayServer, run: Callable[..., list[SourcePausedError]]
    ) -> None:
        run(refresh=False)
        run(refresh=True, times=1)
        asked = len(server.requests)
        assert run(refresh=False) == []
        assert len(server.requests) == asked

    @pytest.mark.parametrize("damage", ["", "[]", '{"started_at_s": null, "continued_at_s": 1}', '{"started_at_s": 9e99}'])
    def test_with_a_damaged_record_begins_anew(
        self, server: ReplayServer, run: Callable[..., list[SourcePausedError]], tmp_path: Path, damage: str
    ) -> None:
        run(refresh=True, times=1)
        (tmp_path / "cache" / "jolpica" / "refresh.json").write_text(damage)
        run(refresh=True)
        assert len(server.requests) == 3 + 8


class TestDamage:
    """What is kept survives kills, and is not believed where it is damaged."""

    @pytest.mark.parametrize(
        "damage",
        [
            lambda _: b"",
            lambda whole: whole[: len(whole) // 2],
            lambda whole: whole[:-1] + b"!",
            lambda whole: whole.replace(b"200", b"404", 1),
            lambda _: b"\x00\xff" * 100,
        ],
        ids=["empty", "half", "body", "head", "noise"],
    )
    def test_a_damaged_file_is_downloaded_again(
        self,
        damage: Callable[[bytes], bytes],
        server: ReplayServer,
        client: Callable[..., PoliteClient],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server.on("/a", RACE)
        client().get_json("a")
        (file,) = kept_files(tmp_path)
        file.write_bytes(damage(file.read_bytes()))
        again = client()
        assert again.get_json("a", absent_for_s=60).data == RACE
        assert again.requests == 1
        assert "cached_response_damaged" in caplog.text
        assert client().get_json("a").from_cache

    def test_a_file_under_the_wrong_name_is_not_used(
        self, server: ReplayServer, client: Callable[..., PoliteClient], tmp_path: Path
    ) -> None:
        server.on("/a", [1])
        server.on("/b", [2])
        client().get_json("a")
        (of_a,) = kept_files(tmp_path)
        client().get_json("b")
        (of_b,) = set(kept_files(tmp_path)) - {of_a}
        of_b.write_bytes(of_a.read_bytes())
        assert client().get_json("b").data == [2]

    def test_garbage_is_never_kept(self, server: ReplayServer, client: Callable[..., PoliteClient], tmp_path: Path) -> None:
        server.on("/a", {"error": "no data"})
        with pytest.raises(SourceFormatError, match=r"got '\{\"error\": \"no data\"\}', expected .*KeyError: 'MRData'"):
            client().get_json("a", validate=lambda data: data["MRData"])
        assert not kept_files(tmp_path)
        # what an earlier version kept is not believed either
        client().get_json("a")
        server.on("/a", {"MRData": {}})
        assert client().get_json("a", validate=lambda data: data["MRData"]).data == {"MRData": {}}

    def test_a_kill_in_the_middle_of_a_write_leaves_it_usable(
        self, server: ReplayServer, client: Callable[..., PoliteClient], tmp_path: Path
    ) -> None:
        server.on("/a", in_turn(Response(body=[1]), Response(body=[2])))
        server.on("/b", [3])
        client().get_json("a")
        killed = _run(
            tmp_path,
            f"""
            client = PoliteClient("jolpica", {server.url!r}, Path("cache"), Limits(1000))
            bodies = []
            def sync_or_die(handle):
                bodies.append(os.readlink(f"/proc/self/fd/{{handle}}"))
                if bodies[-1].endswith(".response"):
                    os.kill(os.getpid(), signal.SIGKILL)
            feature_repo.files.os.fsync = sync_or_die
            client.get_json("a", max_age_s=-1)
            """,
        )
        assert killed.wait(20) == -signal.SIGKILL, killed.communicate()
        leftovers = list((tmp_path / "cache" / "jolpica").glob(".tmp-*.response"))
        assert len(leftovers) == 1  # the write had begun
        assert client().get_json("a").data == [1]
        assert client().get_json("b").data == [3]
        assert leftovers[0].exists()  # it may be another process's write
        os.utime(leftovers[0], (time.time() - 3700,) * 2)
        assert client().get_json("a").from_cache
        assert not leftovers[0].exists()


def _run(folder: Path, code: str) -> subprocess.Popen[str]:
    lines = ["import os, signal, feature_repo.files", "from pathlib import Path"]
    lines += ["from pipelines.ingest.web.client import Limits, PoliteClient", "from pipelines.errors import SourcePausedError"]
    indent = len(code) - len(code.lstrip())
    margin = code[:indent].rpartition("\n")[2]
    body = "\n".join(line.removeprefix(margin) for line in code.splitlines())
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines) + body],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


PASSING = {
    "truncated": truncated(RACE),
    "cut off": cut_off(RACE),
    "html page": html_page(),
    "bad gateway": html_page(502),
    "reset": reset(),
    "wrong type": wrong_type(),
    "too many": too_many(2),
    "too many, silent": too_many(),
    "unavailable": server_error(),
    "slow": slow(list(range(200)), 20.0, pieces=100),
    "late": Response(body=RACE, delay_s=20.0),
    "truncated page": Response(body=(AUTHORED / "truncated.json").read_bytes()),
    "error page": Response(body=(AUTHORED / "error_page.html").read_bytes(), content_type=None),
    "throttled page": Response(status=429, body=(AUTHORED / "throttled.json").read_bytes(), headers={"Retry-After": "3"}),
    "not a number": Response(body=b'{"speed": NaN}'),
    "broken gzip": Response(body=b"no gzip at all", headers={"Content-Encoding": "gzip"}),
}

STAYING = {
    "truncated": (truncated(RACE), SourceFormatError, 3, "one whole JSON document"),
    "html page": (html_page(), SourceFormatError, 3, "text/html.*DOCTYPE html.*expected application/json"),
    "wrong type": (wrong_type(), SourceFormatError, 3, "text/csv.*season,round"),
    "forbidden": (Response(status=403, body=b"no entry"), SourceFormatError, 1, "HTTP 403 'no entry'"),
    "account wanted": (
        Response(status=401, body=b'{"detail":"Live F1 session in progress. Access is restricted."}'),
        *(SourcePausedError, 1, "HTTP 401 .*Live F1 session in progress.*same command again after the session"),
    ),
    "round trip": (Response(status=302, headers={"Location": "/a"}), SourceFormatError, 63, "TooManyRedirects"),
    "cut off": (cut_off(RACE), SourcePausedError, 5, "without sending complete message body"),
    "reset": (reset(), SourcePausedError, 5, "reset by peer"),
    "unavailable": (server_error(), SourcePausedError, 5, "HTTP 503 Service Unavailable"),
    "slow": (slow(list(range(200)), 2.0, pieces=100), SourcePausedError, 5, r"incomplete after 0\.1 s"),
    "late": (Response(delay_s=20.0), SourcePausedError, 5, "ReadTimeout"),
}


class TestFaults:
    """Every fault that passes is overcome, and every one that stays ends in the right error; never is anything of it kept."""

    @pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
    def test_that_pass(self, fault: Response, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock) -> None:
        server.on("/a", in_turn(fault, Response(body=RACE)))
        asking = client(timeout_s=0.5)
        assert asking.get_json("a").data == RACE
        assert (asking.requests, len(clock.slept)) == (2, 1)
        assert client().get_json("a").data == RACE

    @pytest.mark.parametrize(("fault", "error", "requests", "words"), STAYING.values(), ids=STAYING)
    def test_that_stay(
        self,
        fault: Response,
        error: type[Exception],
        requests: int,
        words: str,
        server: ReplayServer,
        client: Callable[..., PoliteClient],
        tmp_path: Path,
        clock: Clock,
    ) -> None:
        server.on("/a", fault)
        asking = client(timeout_s=0.1)
        with pytest.raises(error, match=words) as raised:
            asking.get_json("a")
        assert f"{server.url}/a" in str(raised.value)
        assert "what was fetched is kept" in str(raised.value)
        if isinstance(raised.value, SourcePausedError):  # nobody said when, so in an hour
            assert raised.value.retry_at == pd.Timestamp(clock.now + 3600, unit="s", tz="UTC").ceil("s")
            assert f"from {raised.value.retry_at:%Y-%m-%d %H:%M:%S} UTC on" in str(raised.value)
        assert asking.requests == len(server.requests) == requests
        assert not kept_files(tmp_path)

    def test_no_server_at_all(self, tmp_path: Path, clock: Clock) -> None:
        with ReplayServer() as gone:
            url = gone.url
        asking = PoliteClient("openf1", url, tmp_path, WIDE, sleep=clock.sleep, clock=clock)
        with pytest.raises(SourcePausedError, match=r"openf1: .*ConnectError.*asked 5 times.*run the same command again"):
            asking.get_json("a")
        asking.close()

    def test_every_pause_is_longer_and_all_are_bounded(
        self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> None:
        server.on("/a", server_error())
        with pytest.raises(SourcePausedError, match="asked 9 times"):
            client(max_retries=8).get_json("a")
        highest = [1, 2, 4, 8, 16, 30, 30, 30]
        assert all(high / 2 <= slept <= high for slept, high in zip(clock.slept, highest, strict=True)), clock.slept

    def test_a_fault_in_between_leaves_the_rest_as_it_was(
        self, server: ReplayServer, client: Callable[..., PoliteClient]
    ) -> None:
        server.serve(jolpica_from_folder(AUTHORED / "jolpica"))
        asking = client()
        asking.get_json("2030/1/results.json")
        server.on("/2030/3/results.json", once(Response(status=400, body=b"{}")))
        with pytest.raises(SourceFormatError, match="HTTP 400"):
            asking.get_json("2030/3/results.json")
        again = client()
        assert again.get_json("2030/1/results.json").from_cache
        assert again.get_json("2030/3/results.json").data["MRData"]["total"] == "4"
        assert server.paths().count("/2030/1/results.json") == 1

    def test_a_body_without_end_is_refused(
        self, server: ReplayServer, client: Callable[..., PoliteClient], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "MAX_BODY_BYTES", 2**20)
        server.on("/a", Response(body=gzip.compress(b"1" * 2**24), headers={"Content-Encoding": "gzip"}))
        asking = client()
        with pytest.raises(SourceFormatError, match="a body of more than 1 MiB"):
            asking.get_json("a")
        assert asking.requests == 1


class TestTooManyRequests:
    def test_a_short_wait_is_waited(self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock) -> None:
        server.on("/a", in_turn(too_many(59), too_many(formatdate(START + 59 + 20, usegmt=True)), Response(body=RACE)))
        assert client().get_json("a").data == RACE
        assert clock.slept == [59, 20]

    @pytest.mark.parametrize("header", [61, formatdate(START + 61, usegmt=True)], ids=["seconds", "date"])
    def test_a_long_one_ends_the_run_and_says_when_to_go_on(
        self, header: int | str, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> None:
        server.on("/a", too_many(header))
        with pytest.raises(SourcePausedError, match=r"HTTP 429.*asked once.*from 2030-03-17 17:47:41 UTC on") as raised:
            client().get_json("a")
        assert raised.value.retry_at == pd.Timestamp(START + 61, unit="s", tz="UTC")
        assert clock.slept == []

    @pytest.mark.parametrize("header", ["soon", "-5", "", "²", "Sun, 03 Mar 1985 18:00:00 GMT"])
    def test_a_header_without_sense_is_as_none(
        self, header: str, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> None:
        encoded = header.encode().decode("latin-1")
        server.on("/a", in_turn(too_many(encoded), Response(body=RACE)))
        assert client().get_json("a").data == RACE
        assert 0.5 <= clock.slept[0] <= 1

    def test_a_wait_without_end_is_a_week(self, server: ReplayServer, client: Callable[..., PoliteClient]) -> None:
        server.on("/a", too_many("9" * 400))
        with pytest.raises(SourcePausedError) as raised:
            client().get_json("a")
        assert raised.value.retry_at == pd.Timestamp(START + 7 * 86_400, unit="s", tz="UTC")


class TestLimits:
    def test_hold_by_the_clock(self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock) -> None:
        arrivals: list[float] = []

        def answer(request: Request) -> Response:
            arrivals.append(clock.now - START)
            return Response(body=[])

        server.serve(answer)
        asking = client(Limits(per_second=4, per_minute=10))
        for number in range(12):
            asking.get_json(f"{number}")
        assert arrivals == pytest.approx([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 60, 60])

    def test_less_than_one_a_second(self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock) -> None:
        server.serve(in_turn(Response(body=[])))
        asking = client(Limits(per_second=0.4))
        for number in range(3):
            asking.get_json(f"{number}")
        assert clock.now - START == pytest.approx(5)

    def test_an_hour_that_is_used_up_ends_the_run_and_what_was_kept_is_still_given(
        self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        server.serve(in_turn(Response(body=[])))
        limits = Limits(per_second=1000, per_hour=3)
        for number in range(3):
            client(limits).get_json(f"{number}")  # a client of its own each time: restarts do not forget
        with pytest.raises(SourcePausedError, match=r"limit of requests used up \(1000 requests/s, 3/h\)") as raised:
            client(limits).get_json("3")
        assert raised.value.retry_at == pd.Timestamp(START + 3600, unit="s", tz="UTC")
        assert "from 2030-03-17 18:46:40 UTC on" in str(raised.value)
        assert client(limits).get_json("2").from_cache
        assert len(server.requests) == 3
        clock.now = START + 3600 - 60  # what is left of the hour is waited
        client(limits).get_json("3")
        assert clock.now == START + 3600
        assert "request_waits service=jolpica seconds=60" in caplog.text

    def test_nothing_of_the_hour_is_forgotten(
        self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> None:
        server.serve(in_turn(Response(body=[])))
        limits = Limits(per_second=1000, per_hour=3)
        for number in range(3):
            client(limits).get_json(f"{number}")
            clock.now += 1700
        assert len(server.requests) == 3  # at 0, 1700 and 3400 s
        client(limits).get_json("a")
        assert clock.now == pytest.approx(START + 5100)
        with pytest.raises(SourcePausedError) as raised:
            client(limits).get_json("b")
        assert raised.value.retry_at == pd.Timestamp(START + 1700 + 3600, unit="s", tz="UTC")

    def test_retries_count(self, server: ReplayServer, client: Callable[..., PoliteClient]) -> None:
        server.on("/a", server_error())
        with pytest.raises(SourcePausedError, match="limit of requests used up"):
            client(Limits(per_second=1000, per_hour=2)).get_json("a")
        assert len(server.requests) == 2

    def test_a_clock_that_was_set_back_does_not_lock_the_service(
        self, server: ReplayServer, client: Callable[..., PoliteClient], clock: Clock
    ) -> None:
        server.serve(in_turn(Response(body=[])))
        limits = Limits(per_second=1000, per_hour=1)
        client(limits).get_json("a")
        clock.now -= 30 * 86_400
        with pytest.raises(SourcePausedError):
            client(limits).get_json("b")
        clock.now += 3600
        assert client(limits).get_json("b").data == []

    def test_a_damaged_record_of_requests_is_begun_anew(
        self, server: ReplayServer, client: Callable[..., PoliteClient], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.serve(in_turn(Response(body=[])))
        client().get_json("a")
        requests = tmp_path / "cache" / "limits" / "jolpica" / "requests.json"
        requests.write_text("[17")
        assert client().get_json("b").data == []
        assert "request_times_lost" in caplog.text
        assert json.loads(requests.read_text()) == [START]

    @pytest.mark.parametrize("limits", [{"per_second": 0}, {"per_second": 1, "per_hour": 0}, {"per_second": float("nan")}])
    def test_that_allow_nothing_are_refused(self, limits: dict[str, Any]) -> None:
        with pytest.raises(BadUsageError, match="expected a number above 0"):
            Limits(**limits)

    def test_two_processes_share_the_hour(self, server: ReplayServer, tmp_path: Path) -> None:
        server.serve(in_turn(Response(body=[])))
        code = """
            client = PoliteClient("jolpica", {url!r}, Path("cache"), Limits(1000, per_hour=9))
            try:
                for number in range(20):
                    client.get_json("{name}/%d" % number)
            except SourcePausedError as error:
                print(client.requests, error.retry_at is not None)
            """
        running = [_run(tmp_path, code.format(url=server.url, name=name)) for name in ("left", "right")]
        printed = [process.communicate(timeout=20) for process in running]
        counts = [out.split() for out, _ in printed]
        assert [paused for _, paused in counts] == ["True", "True"], printed
        assert sum(int(requests) for requests, _ in counts) == len(server.requests) == 9

    def test_are_kept_in_real_time_too(self, server: ReplayServer, tmp_path: Path) -> None:
        server.serve(in_turn(Response(body=[])))
        started = time.monotonic()
        with PoliteClient("jolpica", server.url, tmp_path, Limits(per_second=2.5)) as asking:
            for number in range(3):
                asking.get_json(f"{number}")
        assert time.monotonic() - started >= 0.79  # two requests in 0.8 s, then the third
