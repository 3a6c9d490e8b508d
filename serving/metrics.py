"""What Prometheus reads at `/metrics`: how long answers take and where, what they are made of, how old model and features are."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from serving.prediction import Prediction

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable, set where a service has several worker processes: they count into files of this folder."""

IN_FILES = values.ValueClass is not values.MutexValue
"""Whether this process counts into files: decided when the library is loaded, also where Feast sets the variable later."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

NO_ENDPOINT = "(none)"
"""Endpoint of a path that is none, and of the answer that a process gives itself when it starts."""

_NO_REQUEST: Mapping[str, Any] = MappingProxyType({})
request_scope: ContextVar[Mapping[str, Any]] = ContextVar("pitwall_request_scope", default=_NO_REQUEST)
"""ASGI scope of the request that is being answered; empty where there is none."""

Gauges = Callable[[], Iterable[GaugeMetricFamily]]
"""What is measured when it is asked for: ages and freshness."""


class Metrics:
    """The instruments of one application; each has its own registry, so that several may live in one process.

    Attributes:
        request: seconds by `endpoint` (its path as declared), `method` and `status`.
        stage: seconds by `endpoint` and `stage`: `wait` (for a slot), `features`, `pictures` and `model` of a prediction, `json`
            of a lookup, `total`.
        feature_status: values by `service` and `status`: those that lookups gave and those that models were asked with. What had
            expired at the moment of a prediction is MISSING to a model.
        predictions: answers by `version`, `role` and `source`.
        fallbacks: by `fallback`.
        comparisons_left_out: answers that the model beside the one that answers was not asked about.
        waiting: requests that wait for their turn to compute, of all processes together.
        model_problem: by `role`, 1 where any process has not the version it should, else 0; `registry` for the registry itself.
        log_rows: rows of the prediction log by `outcome`: `written`, `failed` (never written) or `dropped` (of old files).
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.request = Histogram(
            "pitwall_request_seconds",
            "Time to answer a request.",
            ("endpoint", "method", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage = Histogram(
            "pitwall_stage_seconds",
            "Time spent in a part of an answer.",
            ("endpoint", "stage"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.feature_status = Counter(
            "pitwall_feature_values",
            "Feature values served or asked a model with, by status.",
            ("service", "status"),
            registry=self.registry,
        )
        self.predictions = Counter(
            "pitwall_predictions", "Predictions made, by model version.", ("version", "role", "source"), registry=self.registry
        )
        self.fallbacks = Counter(
            "pitwall_fallbacks", "What was done instead of what was wanted.", ("fallback",), registry=self.registry
        )
        self.comparisons_left_out = Counter(
            "pitwall_comparisons_left_out",
            "Answers that the other model was not asked about, because too many were waiting.",
            registry=self.registry,
        )
        self.log_rows = Counter(
            "pitwall_prediction_log_rows", "Rows of the prediction log.", ("outcome",), registry=self.registry
        )
        for outcome in ("written", "failed", "dropped"):
            self.log_rows.labels(outcome)  # a series that begins at its first loss never seems to grow

        self.waiting = Gauge(
            "pitwall_waiting",
            "Requests waiting for their turn to compute.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.model_problem = Gauge(
            "pitwall_model_problem",
            "1 where a role has not the version it should.",
            ("role",),
            registry=self.registry,
            multiprocess_mode="livemax",
        )

    def count_stages(self, seconds: Mapping[str, float]) -> None:
        """Count how long the stages of the answer to the current request took."""
        endpoint = endpoint_of(request_scope.get())
        for stage, taken in seconds.items():
            self.stage.labels(endpoint, stage).observe(taken)

    def count_values(self, service: str, by_status: Mapping[str, int]) -> None:
        """Count values of a service, status -> how many."""
        for status, number in by_status.items():
            self.feature_status.labels(service, status).inc(number)

    def count_inputs(self, said: "Prediction") -> None:
        """Count the values that a model was asked with about the drivers of an answer."""
        if said.seen is None:
            return
        missing: Mapping[str, list[str]] = said.missing["features"]
        n_missing = sum(map(len, missing.values()))
        n_stale = sum(len(set(cars).difference(missing.get(name, ()))) for name, cars in said.stale.items())
        n_fresh = len(said.drivers) * said.seen.tabular.shape[1] - n_missing - n_stale
        self.count_values(said.model.feature_service, {"FRESH": n_fresh, "STALE": n_stale, "MISSING": n_missing})

    def measured(self, *, waiting: int, problems: Mapping[str, bool]) -> None:
        """Say how this process is now, for the page of whichever process is asked.

        Args:
            waiting: requests waiting for their turn.
            problems: role -> it has not the version it should.
        """
        self.waiting.set(waiting)
        for role, wrong in problems.items():
            self.model_problem.labels(role).set(wrong)

    def count_logged(self, outcome: str, rows: int) -> None:
        """Count rows of the prediction log; those only accepted are not, they are `written` or `failed` within a minute."""
        if outcome != "accepted":
            self.log_rows.labels(outcome).inc(rows)

    def page(self, gauges: Gauges) -> bytes:
        """Everything as Prometheus reads it; of all worker processes where there are several.

        Args:
            gauges: measured now.
        """
        measured = list(gauges())
        counted = self.registry
        if IN_FILES:
            _forget_ended_processes()
            counted = CollectorRegistry(auto_describe=False)
            counted.register(_Counted())
        now = CollectorRegistry(auto_describe=False)
        now.register(_Now(measured))
        return bytes(generate_latest(counted)) + bytes(generate_latest(now))


def endpoint_of(scope: Mapping[str, Any]) -> str:
    """Path, as declared, of the endpoint that a request was routed to; `NO_ENDPOINT` before that and where there is none."""
    return getattr(scope.get("route"), "path", NO_ENDPOINT)


class _Now(Collector):
    def __init__(self, gauges: Iterable[GaugeMetricFamily]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges as they were measured."""
        return self._gauges


class _Counted(Collector):
    """What all processes have counted and measured."""

    def collect(self) -> Iterable[Metric]:
        """The sums of their files, but for one that is only being made: it is empty, which the library takes for damage."""
        found: Iterable[Metric] = multiprocess.MultiProcessCollector.merge([str(path) for path in _files("*.db") if _size(path)])
        return found


def _files(pattern: str) -> Iterable[Path]:
    return Path(os.environ[MULTIPROCESS_DIR]).glob(pattern)


def _size(path: Path) -> int:
    """Bytes; 0 of a file that is gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _forget_ended_processes() -> None:
    """Drop what processes that are no more measured of themselves; what they counted stays."""
    for path in _files("gauge_live*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid)
        except PermissionError:  # it lives, and is not ours
            continue
