"""The rule of the online stores on real servers: never back in time, whoever writes, dies, or goes away."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from online_servers import (
    EDGES,
    Online,
    a_view,
    gate_to,
    many_rows,
    online,
    open_store,
    processes,
    repo_config,
    row,
    stamp_of,
    url_of,
    versions,
    wait_until,
    watch,
    write_endlessly,
    write_shuffled,
)
from own_redis import own_redis

from feature_repo.errors import NotAppliedError
from feature_repo.stores.errors import OnlineStoreUnavailableError, OnlineUrlError
from feature_repo.stores.online import WriteCounts

KINDS = ["sqlite", "redis", "postgres"]
SERVERS = ["redis", "postgres"]


@pytest.fixture(params=KINDS)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Online]:
    """An empty store of each kind with the tables of two views."""
    with online(request.param, tmp_path) as made:
        made.store.update(made.config, [], [a_view(), a_view("tyre")], [], [], False)
        yield made


def test_a_row_goes_in_unless_its_key_holds_a_newer_one(stored: Online) -> None:
    chance, view = random.Random(7), a_view()
    moments = [edge + step for edge in (*EDGES, 0, 255, 2**63 - 2, -(2**63) + 1) for step in (-1, 0, 1)]
    held: dict[bytes, bytes] = {}
    for _ in range(150):
        keys = [b"key%d" % number for number in chance.sample(range(8), chance.randint(1, 8))]
        values = [row(chance.choice(moments), chance.choice(moments), b"%d" % chance.randint(0, 1)) for _ in keys]
        if chance.random() < 0.3:  # the same times again, with the same or another value
            values = [held.get(key, value)[:-1] + b"%d" % chance.randint(0, 1) for key, value in zip(keys, values, strict=True)]
        expected = {"written": 0, "unchanged": 0, "held_back": 0}
        for key, value in zip(keys, values, strict=True):
            old = held.get(key)
            if value == old:
                expected["unchanged"] += 1
            elif old is None or stamp_of(value) >= stamp_of(old):
                expected["written"] += 1
                held[key] = value
            else:
                expected["held_back"] += 1
        assert stored.store.write_rows(stored.config, view, keys, values) == WriteCounts(**expected)
    assert stored.store.read_rows(stored.config, view, [b"absent", *held]) == [None, *held.values()]
    assert stored.store.count_rows(stored.config, view) == len(held)
    newest = max(int.from_bytes(stamp_of(value)[:8], "big") for value in held.values()) - 2**63
    assert stored.store.newest_event(stored.config, view) == newest


@pytest.mark.parametrize("stored", SERVERS, indirect=True)
def test_rows_of_one_call_that_share_a_key_meet_in_their_order(stored: Online) -> None:
    rows = [row(2, 0), row(1, 0), row(3, 0), row(3, 0), row(2, 9)]
    counts = stored.store.write_rows(stored.config, a_view(), [b"key"] * 5, rows)
    assert counts == WriteCounts(written=2, unchanged=1, held_back=2)
    assert stored.store.read_rows(stored.config, a_view(), [b"key", b"key"]) == [row(3, 0)] * 2


def test_several_views_are_read_at_once_and_kept_apart(stored: Online) -> None:
    form, tyre = a_view(), a_view("tyre")
    stored.store.write_rows(stored.config, form, [b"a", b"b"], [row(1, 1), row(2, 2)])
    stored.store.write_rows(stored.config, tyre, [b"a"], [row(3, 3)])
    asked = [(tyre, [b"b", b"a"]), (form, []), (form, [b"b", b"c", b"b"])]
    assert stored.store.read_many(stored.config, asked) == [[None, row(3, 3)], [], [row(2, 2), None, row(2, 2)]]
    stored.store.clear(stored.config, form)
    assert stored.store.read_many(stored.config, [(form, [b"a"]), (tyre, [b"a"])]) == [[None], [row(3, 3)]]


def test_long_values_and_thousands_of_rows_come_back_as_they_went_in(stored: Online) -> None:
    chance = random.Random(1)
    keys = [b"key%d" % number for number in range(7_001)]
    values = [row(number, 0, chance.randbytes(chance.choice([0, 10, 400]))) for number in range(len(keys))]
    values[17] = row(5, 5, chance.randbytes(3_000_000))
    assert stored.store.write_rows(stored.config, a_view(), keys, values) == WriteCounts(written=len(keys))
    assert stored.store.read_rows(stored.config, a_view(), keys) == values
    assert stored.store.write_rows(stored.config, a_view(), keys, values) == WriteCounts(unchanged=len(keys))
    assert stored.store.newest_event(stored.config, a_view()) == len(keys) - 1


def test_notes_are_no_rows_and_go_with_the_rows(stored: Online) -> None:
    store, config, view = stored.store, stored.config, a_view()
    store.set_note(config, view, "lap 1/ü", '{"a": "\\n"}')
    store.set_note(config, view, "2", "")
    assert store.count_rows(config, view) == 0
    assert store.newest_event(config, view) is None
    store.write_rows(config, view, [b"a"], [row(-5, 1)])
    store.set_note(config, view, "2", "new")
    assert store.get_notes(config, view) == {"lap 1/ü": '{"a": "\\n"}', "2": "new"}
    assert store.get_notes(config, a_view("tyre")) == {}
    assert (store.count_rows(config, view), store.newest_event(config, view)) == (1, -5)
    store.clear(config, view)
    assert (store.count_rows(config, view), store.get_notes(config, view)) == (0, {})


def test_concurrent_writers_leave_the_newest_and_a_reader_never_sees_a_key_go_back(stored: Online) -> None:
    rows, view, n_writers = versions(n_keys=len(EDGES), n_versions=200), a_view(), 6
    start, stop, seen = processes.Barrier(n_writers + 1), processes.Event(), processes.Queue()
    reader = processes.Process(target=watch, args=(stored.config, view, list(rows), start, stop, seen), daemon=True)
    writers = [
        processes.Process(target=write_shuffled, args=(stored.config, view, rows, seed, start), daemon=True)
        for seed in range(n_writers)
    ]
    for process in (reader, *writers):
        process.start()
    for writer in writers:
        writer.join(60)
    stop.set()
    n_reads, n_changes, went_back = seen.get(timeout=30)
    assert [writer.exitcode for writer in writers] == [0] * n_writers
    assert went_back == []
    assert n_reads > 3
    assert n_changes > len(rows)  # it did see keys on their way
    newest = [values[-1] for values in rows.values()]
    assert stored.store.read_rows(stored.config, view, list(rows)) == newest
    assert stored.store.count_rows(stored.config, view) == len(rows)


def test_a_writer_killed_in_the_middle_leaves_whole_rows_and_the_next_run_completes_them(stored: Online) -> None:
    store, config, view, clean = stored.store, stored.config, a_view(), a_view("tyre")
    n_keys = 8_000
    writer = processes.Process(target=write_endlessly, args=(config, view, n_keys), daemon=True)
    writer.start()
    wait_until(lambda: store.count_rows(config, view) > 0)
    time.sleep(random.Random(3).random() / 10)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join(30)
    assert writer.exitcode == -signal.SIGKILL
    keys, _ = many_rows(n_keys, 1)
    left = store.read_rows(config, view, keys)
    assert any(left)
    for number, value in enumerate(left):
        if value is not None:
            version = int.from_bytes(stamp_of(value)[:8], "big") - 2**63
            assert value == row(version, number, b"%d of %d;" % (version, number) * 20)
    final = many_rows(n_keys, 2**40)
    for target in (view, clean):
        assert store.write_rows(config, target, *final).held_back == 0
    assert store.read_rows(config, view, keys) == store.read_rows(config, clean, keys) == final[1]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_is_down_is_named_and_one_that_is_back_is_used_again(kind: str, tmp_path: Path) -> None:
    gate, through = gate_to(kind)
    with online(kind, tmp_path, url=through, timeout_s=2.0) as made:
        store, config, view = made.store, made.config, a_view()
        store.update(config, [], [view], [], [], False)
        store.write_rows(config, view, [b"a"], [row(1, 1)])
        for _ in range(2):
            gate.shut()
            with pytest.raises(OnlineStoreUnavailableError, match=f"127.0.0.1:{gate.port}/.*no answer.*PITWALL_ONLINE_URL"):
                store.read_rows(config, view, [b"a"])
            with pytest.raises(OnlineStoreUnavailableError, match="nothing is written twice"):
                store.write_rows(config, view, [b"a"], [row(2, 2)])
            gate.open()
            assert store.read_rows(config, view, [b"a"]) == [row(1, 1)]
        # All connections are cut but the server answers: nobody notices.
        gate.shut()
        gate.open()
        assert store.write_rows(config, view, [b"a"], [row(2, 2)]) == WriteCounts(written=1)
        store.teardown(config, [view], [])
    gate.shut()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_hangs_is_given_up_and_not_waited_for_again_until_it_answers(kind: str, tmp_path: Path) -> None:
    gate, through = gate_to(kind)
    waits = {"timeout_s": 0.5} if kind == "redis" else {"timeout_s": 0.5, "statement_timeout_s": 0.5}
    with online(kind, tmp_path, url=through, pause_s=3600.0, **waits) as made:
        config, view = made.config, a_view()
        made.store.update(config, [], [view], [], [], False)
        made.store.write_rows(config, view, [b"a"], [row(1, 1)])

        def took() -> float:
            began = time.monotonic()
            with pytest.raises(OnlineStoreUnavailableError, match=f"127.0.0.1:{gate.port}/.*no answer"):
                made.store.read_rows(config, view, [b"a"])
            return time.monotonic() - began

        gate.flows.clear()
        assert 0.4 < took() < 10
        assert took() < 0.1, "nobody else waits"
        gate.flows.set()
        assert took() < 0.1, "nor asks before the pause is over"
        other = open_store(config)
        assert other.read_rows(config, view, [b"a"]) == [row(1, 1)]
        other.teardown(config, [view], [])
    gate.shut()


def test_names_with_any_character_reach_nothing_but_their_own_rows(stored: Online) -> None:
    if stored.kind == "sqlite":
        names = ['a"; DROP TABLE packed_notes; --', "a'b", "*"]
    else:
        names = [
            'a"; DROP SCHEMA public CASCADE; --',
            "a'b",
            "*",
            "[a-z]*",
            "a:b",
            "a",
            "{table}",
            "%s",
            "ü" * 60,
            "ü" * 60 + "x",
            "a\nb",
        ]
    views = [a_view(name) for name in names]
    store, config = stored.store, stored.config
    store.update(config, [], views, [], [], False)
    for number, view in enumerate(views):
        store.write_rows(config, view, [b"*", b"?\x00:%s"], [row(number, 1), row(number, 2)])
        store.set_note(config, view, "n", str(number))
    for number, view in enumerate(views):
        assert store.read_rows(config, view, [b"*", b"?\x00:%s", b"a"]) == [row(number, 1), row(number, 2), None]
        assert (store.count_rows(config, view), store.get_notes(config, view)) == (2, {"n": str(number)})
    store.update(config, [views[2]], [*views[:2], *views[3:]], [], [], False)
    assert [store.count_rows(config, view) for view in [*views[:2], *views[3:]]] == [2] * (len(views) - 1)


@pytest.mark.parametrize("kind", SERVERS)
def test_teardown_and_deleted_views_leave_the_rows_of_others_alone(kind: str, tmp_path: Path) -> None:
    form, tyre = a_view(), a_view("tyre")
    with online(kind, tmp_path) as ours, online(kind, tmp_path) as other_home:
        space = ours.config.online_store
        same_space = {"namespace": space.namespace} if kind == "redis" else {"db_schema": space.db_schema}
        config = repo_config(tmp_path, kind, project="pitwall2", connection_string=space.connection_string, **same_space)
        other_project = Online(kind, config, open_store(config))
        everybody = (ours, other_home, other_project)
        for number, one in enumerate(everybody):
            one.store.update(one.config, [], [form, tyre], [], [], False)
            one.store.write_rows(one.config, form, [b"a"], [row(number, number)])
            one.store.write_rows(one.config, tyre, [b"a"], [row(number, number)])
        assert [one.store.read_rows(one.config, form, [b"a"])[0] for one in everybody] == [row(0, 0), row(1, 1), row(2, 2)]
        ours.store.update(ours.config, [tyre], [form], [], [], False)
        assert ours.store.read_rows(ours.config, form, [b"a"]) == [row(0, 0)]
        ours.store.teardown(ours.config, [form], [])
        assert [one.store.read_rows(one.config, tyre, [b"a"])[0] for one in everybody[1:]] == [row(1, 1), row(2, 2)]
        ours.store.update(ours.config, [], [form, tyre], [], [], False)
        assert ours.store.read_many(ours.config, [(form, [b"a"]), (tyre, [b"a"])]) == [[None], [None]]
        other_project.store.disconnect()


def test_thirty_two_threads_read_through_one_store(stored: Online) -> None:
    from concurrent.futures import ThreadPoolExecutor

    keys, values = many_rows(200, 1)
    stored.store.write_rows(stored.config, a_view(), keys, values)

    def read(seed: int) -> bool:
        chance = random.Random(seed)
        asked = [chance.randrange(200) for _ in range(20)]
        found = stored.store.read_rows(stored.config, a_view(), [keys[number] for number in asked])
        return found == [values[number] for number in asked]

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(read, range(640)))


def test_postgres_says_what_to_do_when_a_table_is_absent(tmp_path: Path) -> None:
    with online("postgres", tmp_path) as made:
        assert not made.store.is_ready_for(made.config, a_view())
        for call in (made.store.count_rows, made.store.newest_event, made.store.clear, made.store.get_notes):
            with pytest.raises(NotAppliedError, match="run `pitwall apply`"):
                call(made.config, a_view())
        made.store.update(made.config, [], [a_view()], [], [], False)
        assert made.store.is_ready_for(made.config, a_view())
        with pytest.raises(NotAppliedError, match="tyre"):
            made.store.read_rows(made.config, a_view("tyre"), [b"a"])


def test_postgres_tables_are_made_once_when_many_apply_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with online("postgres", tmp_path) as made, ThreadPoolExecutor(8) as pool:
        views = [a_view(), a_view("tyre")]
        list(pool.map(lambda _: made.store.update(made.config, [], views, [], [], False), range(16)))
        assert all(made.store.is_ready_for(made.config, view) for view in views)


def test_postgres_teardown_takes_its_schema_when_nothing_else_is_in_it(tmp_path: Path) -> None:
    with online("postgres", tmp_path) as made:
        made.store.update(made.config, [], [a_view()], [], [], False)
        made.store.teardown(made.config, [a_view()], [])
        with psycopg.connect(url_of("postgres")) as connection:
            found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (made.config.online_store.db_schema,))
            assert found.fetchone() is None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("redis", "redis://:geheim@127.0.0.1:port/0"),
        ("redis", "127.0.0.1:6379,db=0,password"),
        ("redis", "127.0.0.1:geheim"),
        ("postgres", "postgresql://u:geheim@[127.0.0.1/d"),
        ("postgres", "host=h geheim"),
    ],
)
def test_a_connection_string_that_makes_no_sense_is_refused_without_being_shown(kind: str, text: str, tmp_path: Path) -> None:
    config = repo_config(tmp_path, kind, connection_string=text)
    with pytest.raises(OnlineUrlError, match="connection_string") as refused:
        open_store(config).count_rows(config, a_view())
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("kind", SERVERS)
def test_passwords_come_from_the_environment_and_are_in_no_message(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(url_of(kind))
    secret = parts._replace(netloc=f"nobody:geheim@127.0.0.1:{'1' if kind == 'postgres' else parts.port}").geturl()
    config = repo_config(tmp_path, kind, connection_string="${SECRET_URL}")
    with pytest.raises(OnlineUrlError, match="SECRET_URL is not set"):
        open_store(config).count_rows(config, a_view())
    monkeypatch.setenv("SECRET_URL", secret)
    with pytest.raises(OnlineStoreUnavailableError) as refused:
        open_store(config).count_rows(config, a_view())
    assert "geheim" not in f"{refused.value}{refused.value.__cause__}{config.online_store!r}"


def test_redis_with_a_password_and_redis_without_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_redis(tmp_path) as address, redis.Redis.from_url(f"redis://{address}/0") as admin:
        config, view = repo_config(tmp_path, "redis", connection_string=f"{address},db=0"), a_view()
        admin.config_set("requirepass", "geheim")
        with pytest.raises(OnlineStoreUnavailableError, match=r"refused the password.*set PITWALL_ONLINE_PASSWORD"):
            open_store(config).count_rows(config, view)
        monkeypatch.setenv("PITWALL_ONLINE_PASSWORD", "falsch")
        with pytest.raises(OnlineStoreUnavailableError, match="set PITWALL_ONLINE_PASSWORD") as refused:
            open_store(config).count_rows(config, view)
        assert "falsch" not in str(refused.value)
        monkeypatch.setenv("PITWALL_ONLINE_PASSWORD", "geheim")
        store = open_store(config)
        assert store.write_rows(config, view, [b"a"], [row(1, 1)]) == WriteCounts(written=1)
        admin.config_set("maxmemory", "1")
        with pytest.raises(OnlineStoreUnavailableError, match=r"refused a command \(.*memory"):
            store.write_rows(config, view, [b"a"], [row(2, 2)])
        admin.config_set("maxmemory", "0")
        assert store.read_rows(config, view, [b"a"]) == [row(1, 1)]
        store.disconnect()
