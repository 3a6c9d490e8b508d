"""What holds for any requests to a web service: never more than it allows, and never one answer for another."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from replay_server import Clock

from pipelines.errors import SourcePausedError
from pipelines.ingest.web.cache import ResponseCache, Stored
from pipelines.ingest.web.client import Limits, PoliteClient
from pipelines.ingest.web.limits import PATIENCE_S, Pace, earliest

START = 1_900_000_000.0  # epoch seconds
EXACT_S = 1e-5  # a float holds epoch seconds to 2e-7

LIMITS = st.builds(
    Limits,
    per_second=st.floats(0.05, 20),
    per_minute=st.none() | st.integers(1, 12),
    per_hour=st.none() | st.integers(1, 12),
)
GAPS_S = st.lists(st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 90), st.floats(0, 4000)), min_size=1, max_size=25)


def assert_within(limits: Limits, sent: list[float]) -> None:
    """Any `n + 1` requests in a row take at least the window's seconds, so no interval of that length holds more than `n`."""
    for n, seconds in limits.windows():
        assert all(late - early >= seconds - EXACT_S for early, late in zip(sent, sent[n:], strict=False)), (n, seconds, sent)


@settings(max_examples=40, deadline=None)
@given(LIMITS, GAPS_S, st.data())
def test_no_window_ever_holds_more_than_its_limit(limits: Limits, gaps_s: list[float], data: st.DataObject) -> None:
    clock, sent = Clock(START), []
    with TemporaryDirectory() as folder:
        # every request comes from another process: nothing is remembered but the file
        for gap_s in gaps_s:
            clock.now += gap_s
            pace = Pace("any", Path(folder), limits, sleep=clock.sleep, clock=clock)
            try:
                pace.wait_turn()
            except SourcePausedError as error:
                assert error.retry_at is not None
                retry_s = error.retry_at.timestamp()
                assert retry_s - clock.now > PATIENCE_S
                if data.draw(st.booleans(), label="comes back when told"):
                    clock.now = retry_s
                    pace.wait_turn()  # was told the truth
                    sent.append(clock.now)
            else:
                sent.append(clock.now)
    assert_within(limits, sent)
    assert all(0 < slept <= PATIENCE_S for slept in clock.slept)


@settings(max_examples=300, deadline=None)
@given(LIMITS, st.lists(st.floats(0, 5000), max_size=60))
def test_the_earliest_instant_is_allowed_and_none_before_it_is(limits: Limits, arrivals: list[float]) -> None:
    sent: list[float] = []
    for arrival in sorted(arrivals):
        first = earliest(sent, limits.windows())
        instant = max(arrival, first, sent[-1] if sent else 0.0)
        if math.isfinite(first):
            binding = [n for n, seconds in limits.windows() if len(sent) >= n and first - sent[-n] <= seconds + EXACT_S]
            assert binding  # a moment sooner would be too soon for some window
        sent.append(instant)
    assert_within(limits, sent)


NAMES = st.text('ab/&=,"[] é', max_size=4)
KEYS = st.tuples(NAMES, st.dictionaries(NAMES, NAMES | st.integers(0, 3), max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.lists(KEYS, min_size=1, max_size=12))
def test_the_cache_gives_each_address_its_own_latest_answer(asked: list[tuple[str, dict[str, str | int]]]) -> None:
    expected: dict[tuple[str, frozenset[tuple[str, str]]], bytes] = {}
    with TemporaryDirectory() as folder:
        cache = ResponseCache(Path(folder))
        for number, (path, params) in enumerate(asked):
            key = path, frozenset((name, str(value)) for name, value in params.items())
            before = cache.read(path, params)
            assert (before.body if before else None) == expected.get(key)
            expected[key] = b"%d\nof many" % number
            cache.write(path, params, Stored(200, {"etag": str(number)}, expected[key], START + number))
        for path, params in asked:
            key = path, frozenset((name, str(value)) for name, value in params.items())
            for order in (params, dict(reversed(params.items()))):
                found = cache.read(path, order)
                assert found is not None
                assert found.body == expected[key]
                assert found.headers["etag"] == found.body.split(b"\n")[0].decode()
        assert len(list(Path(folder).glob("*.response"))) == len(expected)


@settings(max_examples=200, deadline=None)
@given(KEYS, KEYS)
def test_two_addresses_are_one_exactly_where_their_cache_file_is_one(
    left: tuple[str, dict[str, str | int]], right: tuple[str, dict[str, str | int]]
) -> None:
    with TemporaryDirectory() as folder, PoliteClient("any", "http://localhost", Path(folder), Limits(1)) as client:
        cache = ResponseCache(Path(folder))
        (first, first_params), (second, second_params) = [(path.lstrip("/"), params) for path, params in (left, right)]
        same_url = client.url(first, first_params) == client.url(second, second_params)
        assert same_url == (cache.file(first, first_params) == cache.file(second, second_params))
