"""The service: predictions in process and a grid's features over HTTP, against Feast's SDK and `feast serve`.

A home is made for it: simulated races, every step, and an online store that ends at half distance of the newest race, so that
this race is live. The same newest rows are written through Feast into Feast's own SQLite store.

Predictions: ours is POST /v1/predict, `live`, for a race of 20 cars, from the bytes of the request to the bytes of the answer,
asked of the application itself (no socket). Reference is what a service by hand would do at the least: Feast's
`get_online_features` on Feast's store, the model, `json.dumps`; its pictures' embeddings are given to it. Turns of 50, warm;
seconds are wall seconds, one row the median and one the 99th percentile. `equal`: the probabilities.

Features over HTTP: `pitwall serve` against `feast serve`, one process each, 32 callers who never pause, in turns; the same 20
entity rows and features. Seconds are wall seconds per answer of all callers together, or the 99th percentile of single answers.
`equal`: the values.

More processes: callers that do no more than send bytes and count those that come back, so that two processes of the service have
two cores nearly to themselves. One row is wall seconds per answer with two processes against one; one is the processor seconds of
all processes of the service per answer, which say what an answer costs on any number of cores. `detail`: what the callers took.

The chain: a prediction as Feast and MLflow serve it, `feast serve` for the features, `mlflow models serve` for the model, asked
one after the other by a caller who makes an array of the first answer for the second. Ours is one question to `pitwall serve`, by
one caller, in turns with the chain. Only the tabular model: of a fusion model MLflow's server would have to be sent the
pictures, as 28.8 million numbers in JSON.
"""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import yaml
from feast import FeatureStore, RepoConfig
from numpy.typing import NDArray

from feature_repo.settings import Settings
from feature_repo.spine import Moment, load_moments, resolve_moment
from feature_repo.store import apply, open_store
from feature_repo.visibility import CREATED, EVENT, latest_visible
from ml.registry import BASELINE, CHAMPION, MODEL_NAME, ROLE_TAG, open_registry
from ml.served_model import tabular_array
from ml.torch_threads import one_thread
from pipelines.flows import run_all
from pipelines.ingest.simulator import SimulatorSource
from pipelines.materialize import materialize
from serving.app import create_app
from serving.lookup import GridLookup, lookup_grid
from serving.predictor import TRACE_SERVICE, Predictor
from serving.races import driver_names

sys.path += [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[1] / "support")]
from benchmarks.load import load, replay, request
from benchmarks.processes import cpu_seconds, used_between, wait_until_idle
from serve_process import free_port, serving

SERVICE = "finish_position_v1"
P50_S, P99_S, HTTP_GOAL, HTTP_P99_S = 0.008, 0.025, 5.0, 0.1
CALLERS = 32
SAME = 1e-9  # largest difference of a probability
IN_TURN, WARM_UP = 50, 5
"""Predictions that one side makes before the other's turn, and those before them that do not count: both are measured warm."""


@dataclass
class _Case:
    """A race that is live: in our home, and in Feast's own store."""

    settings: Settings
    race_id: str
    feast: FeatureStore
    feast_folder: Path
    rows: list[dict[str, str]]


def run(*, quick: bool = False, settings: Settings | None = None) -> list[dict[str, Any]]:
    """Two rows a model, in process; features over HTTP; the chain; with more processes, unless `quick`.

    Args:
        quick: few questions, short loads.
        settings: a home in which every step has run and that may be changed; default one is made.
    """
    with tempfile.TemporaryDirectory() as folder, one_thread():
        if settings is None:
            settings = Settings(home=Path(folder) / "home", encoder="random", threads=1, seed=7)
            source = SimulatorSource(seasons=3, races=4, seed=settings.seed)
            run_all(settings, source, source.years)
        case = _case(settings, Path(folder))
        repeats = 5 if quick else 1000
        rows = []
        for role in ("baseline", "candidate"):
            rows += asyncio.run(_predictions(case, role, repeats))
        rows += [*_over_http(case, seconds=0.5 if quick else 8.0), *_chained(case, 5 if quick else 300)]
        return [*rows, *_grown(case, seconds=0.5 if quick else 8.0)]


async def _predictions(case: _Case, role: str, repeats: int) -> list[dict[str, Any]]:
    """POST /v1/predict with one model, against lookup and model by hand."""
    _answer_with(case.settings, role)
    app = create_app(case.settings)
    body = json.dumps({"race_id": case.race_id, "live": True}).encode()
    async with app.router.lifespan_context(app):
        model = app.state.serving.models.champion
        if app.state.serving.models.problems:
            raise RuntimeError(f"the {role} does not answer: {app.state.serving.models.problems}")
        by_hand = _ByHand(case, model.predictor)
        said = json.loads(await _post(app, "/v1/predict", body))
        difference = _difference(said, json.loads(by_hand()))
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(max(repeats // IN_TURN, 1)):
            for turn in range(WARM_UP + min(repeats, IN_TURN)):
                started = time.perf_counter()
                await _post(app, "/v1/predict", body)
                if turn >= WARM_UP:
                    times[0].append(time.perf_counter() - started)
            for turn in range(WARM_UP + min(repeats, IN_TURN)):
                started = time.perf_counter()
                by_hand()
                if turn >= WARM_UP:
                    times[1].append(time.perf_counter() - started)
    name = f"POST /v1/predict, live race of {len(case.rows)} cars: {model.predictor.model.name}"
    detail = f"of {repeats} answers; probabilities differ by {difference:.0e}"
    return [
        {**_row(f"{name}, {what}", *(float(np.percentile(side, percent)) for side in times)), "goal_s": goal_s,
         "equal": difference <= SAME, "detail": detail}
        for what, percent, goal_s in (("p50", 50, P50_S), ("p99", 99, P99_S))
    ]  # fmt: skip


class _ByHand:
    """An answer made of Feast's SDK on Feast's own store, the same model, and `json.dumps`.

    What it need not find out: which values have expired, which Feast does not say, and the embeddings of the pictures.
    """

    def __init__(self, case: _Case, predictor: Predictor) -> None:
        self._case, self._served = case, predictor.served
        self._services = [self._served.origin.feature_service, *([TRACE_SERVICE] if self._served.uses_pictures else [])]
        grid = _grid(case, predictor.store, self._services[0])
        self._unknown = np.isnan(tabular_array(grid.columns(expired_at=grid.newest()), self._served.specs))
        traces = _grid(case, predictor.store, TRACE_SERVICE).columns() if self._served.uses_pictures else None
        self._embedding, self._has_picture, _ = predictor._embedded(case.race_id, traces, None, len(case.rows))

    def __call__(self) -> str:
        frames = [_sdk(self._case.feast, service, self._case.rows).to_df() for service in self._services]
        tabular = tabular_array(frames[0], self._served.specs)
        tabular[self._unknown] = np.nan
        probabilities = self._served.predict_embedded(tabular, self._embedding, self._has_picture)
        return json.dumps(dict(zip(frames[0]["driver_id"], probabilities.tolist(), strict=True)))


def _over_http(case: _Case, *, seconds: float) -> list[dict[str, Any]]:
    """A grid's features: ours against `feast serve`."""
    ours = request("POST", "/v1/features", {"service": SERVICE, "entity_rows": case.rows})
    columns = {key: [row[key] for row in case.rows] for key in case.rows[0]}
    feasts = request("POST", "/get-online-features", {"feature_service": SERVICE, "entities": columns})
    environment = _environment(case.settings)
    with serving(environment) as one, _feast_serve(case) as feast_port:
        equal = _values_of_ours(_body(one.port, ours)) == _values_of_feast(_body(feast_port, feasts))
        sides = ((one.port, [ours]), (feast_port, [feasts]))
        alone = [load(port, asked, callers=1, seconds=seconds / 4) for port, asked in sides]
        seen = [load(port, asked, callers=CALLERS, seconds=seconds) for port, asked in sides]
    told = [f"{one.told()} (one caller: {single.told()})" for one, single in zip(seen, alone, strict=True)]
    detail = f"pitwall serve: {told[0]}; feast serve: {told[1]}"
    name = f"features of {len(case.rows)} cars over HTTP, {CALLERS} callers"
    whole = all(not one.lost and set(one.statuses) == {200} for one in (*seen, *alone))
    equal = equal and whole
    return [
        {**_row(name, *(1 / one.per_second for one in seen)), "goal": HTTP_GOAL, "equal": equal, "detail": detail},
        {**_row(f"{name}, p99", *(one.percentile(99) for one in seen)), "goal_s": HTTP_P99_S, "equal": equal},
    ]


def _grown(case: _Case, *, seconds: float) -> list[dict[str, Any]]:
    """A grid's features from two processes against one: wall and processor seconds per answer."""
    asked = request("POST", "/v1/features", {"service": SERVICE, "entity_rows": case.rows})
    seen, costs, told = [], [], []
    for workers in (1, 2):
        with serving(_environment(case.settings), workers=workers) as served:
            wait_until_idle(served.process.pid)  # whichever process was ready first has said so for all
            replay(served.port, asked, callers=CALLERS, seconds=seconds / 4)
            before = cpu_seconds(served.process.pid)
            one = replay(served.port, asked, callers=CALLERS, seconds=seconds)
            used = used_between(before, cpu_seconds(served.process.pid))
        seen.append(one)
        costs.append(sum(used) / len(one.latencies))
        shares = " + ".join(f"{share / one.seconds:.2f}" for share in used[:workers])
        told.append(
            f"{workers} process{'es' if workers > 1 else ''}: {one.told()}, {1 / costs[-1]:.0f} answers per processor second; "
            f"the service took {shares} cores, its callers {one.cpu_s / one.seconds:.2f}"
        )
    equal = all(not one.lost and set(one.statuses) == {200} for one in seen)
    name = f"features of {len(case.rows)} cars over HTTP, {CALLERS} callers: two processes against one"
    detail = "; ".join([*told, f"{os.cpu_count()} cores"])
    return [
        {**_row(name, *(1 / one.per_second for one in reversed(seen))), "goal": 1.0, "equal": equal, "detail": detail},
        {**_row(f"{name}, processor time", *reversed(costs)), "equal": equal},
    ]


def _chained(case: _Case, repeats: int) -> list[dict[str, Any]]:
    """A live prediction over HTTP: ours against `feast serve`, then `mlflow models serve`."""
    _answer_with(case.settings, "baseline")
    client = open_registry(case.settings)
    version = str(client.get_model_version_by_alias(MODEL_NAME, BASELINE).version)
    predictor = Predictor.load(case.settings, open_store(case.settings), client, version=version, role=BASELINE)
    grid = _grid(case, predictor.store, predictor.served.origin.feature_service)
    unknown = np.isnan(tabular_array(grid.columns(expired_at=grid.newest()), predictor.served.specs))
    columns = {key: [row[key] for row in case.rows] for key in case.rows[0]}
    wanted = {"feature_service": predictor.served.origin.feature_service, "entities": columns}
    body = json.dumps({"race_id": case.race_id, "live": True}).encode()
    with (
        serving(_environment(case.settings)) as ours,
        _feast_serve(case) as feast_port,
        _mlflow_serve(case.settings, version) as mlflow_port,
    ):
        one, feast, model = (_Connection(port) for port in (ours.port, feast_port, mlflow_port))

        def chained() -> dict[str, list[float]]:
            found = json.loads(feast.post("/get-online-features", json.dumps(wanted).encode()))
            names = found["metadata"]["feature_names"]
            values = {name: _column(column["values"]) for name, column in zip(names, found["results"], strict=True)}
            tabular = tabular_array(values, predictor.served.specs)
            tabular[unknown] = np.nan
            said = json.loads(model.post("/invocations", json.dumps({"inputs": {"tabular": tabular.tolist()}}).encode()))
            return dict(zip(values["driver_id"], said["predictions"], strict=True))

        difference = _difference(json.loads(one.post("/v1/predict", body)), chained())
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for side, call in zip(times, (lambda: one.post("/v1/predict", body), chained), strict=True):
                started = time.perf_counter()
                call()
                side.append(time.perf_counter() - started)
    name = (
        f"POST /v1/predict over HTTP, live race of {len(case.rows)} cars: {predictor.model.name}, against feast serve and mlflow"
    )
    both = [f"p50 {1e3 * np.median(side):.1f} ms, p99 {1e3 * np.percentile(side, 99):.1f} ms" for side in times]
    detail = f"pitwall serve: {both[0]}; the chain: {both[1]}; probabilities differ by {difference:.0e}"
    row = _row(name, *(float(np.median(side)) for side in times))
    return [{**row, "equal": difference <= SAME, "detail": detail}]


def _column(values: list[Any]) -> NDArray[Any]:
    """A column of `feast serve` as it goes into a model: integers come as text."""
    try:
        return np.array([np.nan if value is None else float(value) for value in values])
    except ValueError:
        return np.array(values, dtype=object)


class _Connection:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, content: bytes) -> bytes:
        """The body of the answer."""
        self._connection.request("POST", path, content, {"content-type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}: {answer[:500]!r}")
        return answer


@contextmanager
def _mlflow_serve(settings: Settings, version: str) -> Iterator[int]:
    """The port of `mlflow models serve` with one process, in this environment."""
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "mlflow"), "models", "serve", "--model-uri", f"models:/{MODEL_NAME}/{version}",
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    found = {"MLFLOW_TRACKING_URI": settings.mlflow_uri, "MLFLOW_REGISTRY_URI": settings.mlflow_uri}
    with _started(command, found, port, "/ping"):
        yield port


@contextmanager
def _started(command: list[str], variables: dict[str, str], port: int, path: str) -> Iterator[None]:
    """A server that answers `path`; ended with its children when the block ends."""
    folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")]),
        **variables,
    }
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            _wait(port, server, path, log)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=30)


@contextmanager
def _feast_serve(case: _Case) -> Iterator[int]:
    """The port of a `feast serve` with one process."""
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "feast"),
        "-c",
        str(case.feast_folder),
        "serve",
        "--port",
        str(port),
        "--no-access-log",
    ]
    with _started(command, {}, port, "/health"):
        yield port


def _wait(port: int, server: subprocess.Popen[bytes], path: str, log: IO[bytes]) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and server.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    log.seek(0)
    said = log.read().decode(errors="replace")[-2000:]
    raise RuntimeError(f"{server.args}: not there after two minutes, or ended with {server.poll()}: {said}")


def _case(settings: Settings, folder: Path) -> _Case:
    moments = load_moments(settings)
    race_id = str(moments["race_id"].max())
    point = resolve_moment(moments, race_id, Moment.parse("fraction:0.5"))
    for path in settings.home.glob("online_store.db*"):
        path.unlink()
    apply(settings)
    materialize(settings, until=point.as_of)
    ours = open_store(settings)
    place = folder / "feast"
    place.mkdir()
    config = {
        "project": "pitwall", "provider": "local", "offline_store": {"type": "file"},
        "registry": {"registry_type": "sql", "path": f"sqlite:///{place / 'registry.db'}"},
        "online_store": {"type": "sqlite", "path": str(place / "online.db")},
        "entity_key_serialization_version": 3, "data_quality_monitoring": {"auto_baseline": False},
    }  # fmt: skip
    (place / "feature_store.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    feast = FeatureStore(config=RepoConfig(repo_path=place, **config))
    views = [view for view in ours.list_feature_views() if view.online]
    names = {view.name for view in views}
    services = [
        service for service in ours.list_feature_services() if {one.name for one in service.feature_view_projections} <= names
    ]
    feast.apply([*ours.list_entities(), *views, *services])
    for view in views:
        table = pd.read_parquet(settings.home / view.batch_source.path)
        newest = latest_visible(table, view.join_keys, point.as_of)
        feast.write_to_online_store(view.name, newest[[*view.join_keys, *(f.name for f in view.features), EVENT, CREATED]])
    keys = lookup_grid(ours, race_id=race_id, driver_ids=list(driver_names(settings, race_id)), service=SERVICE).features.keys
    rows = [dict(zip(keys, values, strict=True)) for values in zip(*keys.values(), strict=True)]
    return _Case(settings, race_id, feast, place, rows)


def _answer_with(settings: Settings, role: str) -> None:
    """Let the model of a role answer, whatever the gate said of it; the baseline answers where there is no champion."""
    client = open_registry(settings)
    if CHAMPION in client.get_registered_model(MODEL_NAME).aliases:
        client.delete_registered_model_alias(MODEL_NAME, CHAMPION)
    if role == "candidate":
        versions = client.search_model_versions(f"name = '{MODEL_NAME}'")
        newest = max(int(found.version) for found in versions if found.tags[ROLE_TAG] == role)
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, str(newest))


def _environment(settings: Settings) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PITWALL_")}
    chosen = {"PITWALL_HOME": str(settings.home), "PITWALL_ENCODER": settings.encoder, "PITWALL_THREADS": "1"}
    return {**kept, **chosen, "OMP_NUM_THREADS": "1", "TZ": "UTC"}


def _grid(case: _Case, store: FeatureStore, service: str) -> GridLookup:
    drivers = [row["driver_id"] for row in case.rows]
    return lookup_grid(store, race_id=case.race_id, driver_ids=drivers, service=service)


def _sdk(store: FeatureStore, service: str, rows: list[dict[str, str]]) -> Any:
    return store.get_online_features(store.get_feature_service(service, allow_cache=True), rows)


async def _post(app: Any, path: str, body: bytes) -> bytes:
    """The body of the answer to a POST, asked of the application itself."""
    waiting, pieces, statuses = [{"type": "http.request", "body": body, "more_body": False}], [], []

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()  # the caller stays until it is answered
        raise AssertionError

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            pieces.append(message.get("body", b""))

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
    }  # fmt: skip
    await app(scope, receive, send)
    answer = b"".join(pieces)
    if statuses != [200]:
        raise RuntimeError(f"{path}: {statuses} {answer[:500]!r}")
    return answer


def _body(port: int, asked: bytes) -> dict[str, Any]:
    head, _, content = asked.partition(b"\r\n\r\n")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", head.split()[1].decode(), content, {"content-type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer[:500]!r}")
        return dict(json.loads(answer))
    finally:
        connection.close()


def _values_of_ours(answer: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [_plain(value) for value in column["value"]] for name, column in answer["features"].items()}


def _values_of_feast(answer: dict[str, Any]) -> dict[str, list[Any]]:
    keys = {"race_id", "driver_id", "constructor_id", "circuit_id"}
    columns = zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
    return {name: [_plain(value) for value in column["values"]] for name, column in columns if name not in keys}


def _plain(value: Any) -> Any:
    """A value as both sides can say it: Feast writes integers as text, and singles in fewer digits."""
    try:
        return None if value is None else float(f"{float(value):.6g}")
    except (TypeError, ValueError):
        return value


def _difference(said: dict[str, Any], expected: dict[str, list[float]]) -> float:
    """Largest difference of any probability; infinite if other drivers were answered."""
    answered = {driver["driver_id"]: driver["probabilities"] for driver in said["drivers"]}
    if answered.keys() != expected.keys():
        return float("inf")
    return max(float(np.abs(np.array(answered[driver]) - np.array(expected[driver])).max()) for driver in expected)


def _row(name: str, ours: float, reference: float) -> dict[str, Any]:
    return {"name": name, "ours_s": ours, "reference_s": reference, "ratio": reference / ours, "goal": None}


if __name__ == "__main__":
    for row in run(quick="--quick" in sys.argv):
        print(f"{row['name']}: {1e3 * row['ours_s']:.2f} ms, {row['ratio']:.1f}x, equal {row['equal']}; {row.get('detail', '')}")
