"""What Prometheus reads at `/metrics`: how long answers take and where, what they are made of, how old model and features are."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable, set where a service has several worker processes: they count into files of this folder."""

_IN_FILES = values.ValueClass is not values.MutexValue
"""Whether this process counts into files: decided when the library is loaded, also where Feast sets the variable later."""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Gauges = Callable[[], Iterable[GaugeMetricFamily]]
"""What is measured when it is asked for: ages and freshness."""


class Metrics:
    """The instruments of one application; each has its own registry, so that several may live in one process.

    Attributes:
        request: seconds by `endpoint` (its path as declared), `method` and `status`.
        stage: seconds by `stage`: `wait` (for a slot), `features`, `pictures`, `model`, `total`.
        feature_status: values served by `service` and `status`.
        predictions: answers by `version`, `role` and `source`.
        fallbacks: by `fallback`.
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
            "pitwall_stage_seconds", "Time spent in a part of an answer.", ("stage",), buckets=_SECONDS, registry=self.registry
        )
        self.feature_status = Counter(
            "pitwall_feature_values", "Feature values served, by status.", ("service", "status"), registry=self.registry
        )
        self.predictions = Counter(
            "pitwall_predictions", "Predictions made, by model version.", ("version", "role", "source"), registry=self.registry
        )
        self.fallbacks = Counter(
            "pitwall_fallbacks", "What was done instead of what was wanted.", ("fallback",), registry=self.registry
        )

        self.log_rows = Counter(
            "pitwall_prediction_log_rows", "Rows of the prediction log.", ("outcome",), registry=self.registry
        )
        for outcome in ("written", "failed", "dropped"):
            self.log_rows.labels(outcome)  # a series that begins at its first loss never seems to grow

    def count_logged(self, outcome: str, rows: int) -> None:
        """Count rows of the prediction log; those only accepted are not, they are `written` or `failed` within a minute."""
        if outcome != "accepted":
            self.log_rows.labels(outcome).inc(rows)

    def page(self, gauges: Gauges) -> bytes:
        """Everything as Prometheus reads it; of all worker processes where there are several.

        Args:
            gauges: measured now.
        """
        counted = self.registry
        if _IN_FILES:
            counted = CollectorRegistry()
            multiprocess.MultiProcessCollector(counted)
        now = CollectorRegistry(auto_describe=False)
        now.register(_Now(gauges))
        return bytes(generate_latest(counted)) + bytes(generate_latest(now))


class _Now(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges, measured now."""
        return self._gauges()
