"""What `pitwall skew` says: per feature, per view and per key what differs, and the verdict; written to `reports/skew.json`."""

from dataclasses import asdict, dataclass
from typing import Any

from filelock import FileLock

from feature_repo.files import read_json, sha256_json, write_json
from feature_repo.settings import Settings
from ml.evidence import SkewEvidence

_MOST_SHOWN = 60  # characters of a value in a sentence; a list of laps is longer
Example = dict[str, Any]
"""One vector: race_id, driver_id, moment, served_at, request_id, and what was served and expected."""


@dataclass(frozen=True)
class FeatureSkew:
    """One feature.

    Attributes:
        name: the feature.
        view: its view.
        cells: vectors compared.
        inexact: cells not equal to the last bit, mismatches included.
        mismatches: cells that differ beyond the tolerance, or are null on one side only.
        null_served: of these, null where history has a value.
        value_served: of these, a value where history has null.
        share: mismatches over cells.
        largest_difference: largest relative difference of two numbers; None without one.
        pattern: what all differing numbers have in common: `times 3.6`, `plus 273.15`, or "".
        example: the first mismatch.
        out_of_range: values outside what the model was trained on.
        out_of_range_example: the first of them.
        constant: served with one value only over many rows, although training had several.
        constant_in_history: history has one value only for the same questions, so that the world may be to blame.
    """

    name: str
    view: str
    cells: int
    inexact: int
    mismatches: int
    null_served: int
    value_served: int
    share: float
    largest_difference: float | None
    pattern: str
    example: Example | None
    out_of_range: int
    out_of_range_example: Example | None
    constant: bool
    constant_in_history: bool


@dataclass(frozen=True)
class ViewSkew:
    """The rows of one view: how often a vector was served from another row than history uses.

    Attributes:
        name: the view.
        rows: vectors.
        missing: no row held where history has one.
        older: from an older row; `largest_lag_s` says how much older at most, seconds.
        newer: from a newer row that history does not know (any more).
        future: from a row that became true after the moment.
        aged: older at the moment than the view's tag `fresh_for_s`, or its ttl.
        expired_served: older than the ttl and served all the same (lookups do), so compared with the row regardless of its age.
        wrong_key: with the values of another car of the race.
        examples: the first of `missing`, `older`, `newer`, `future` and `wrong_key`.
    """

    name: str
    rows: int
    missing: int
    older: int
    largest_lag_s: float
    newer: int
    future: int
    aged: int
    expired_served: int
    wrong_key: int
    examples: dict[str, Example]


@dataclass(frozen=True)
class ServiceSkew:
    """One feature service over one window.

    Attributes:
        service: the feature service.
        since: window, UTC; `until` likewise. Both are instants of serving.
        made_at: when this was found out.
        vectors: rows of the log compared.
        requests: answers they belong to.
        first_served: oldest instant in the window; `last_served` the newest.
        cells: values compared.
        mismatches: cells beyond the tolerance.
        share: mismatches over cells.
        limit: largest share allowed.
        wrong_keys: vectors looked up with keys that are not the entrant's, or with another car's values.
        future_rows: vectors with a row from after their moment.
        within_limit: the share is within the limit and there are no wrong keys and no future rows.
        problems: why not, naming features; the worst first.
        warnings: what does not count against the limit and should be looked at.
        ranges_from: where training ranges come from; None if no model has any.
        keys: per join key, vectors looked up with another value than the entrant's.
        key_example: the first of them.
        features: by feature, in the service's order.
        views: by view.
    """

    service: str
    since: str
    until: str
    made_at: str
    vectors: int
    requests: int
    first_served: str
    last_served: str
    cells: int
    mismatches: int
    share: float
    limit: float
    wrong_keys: int
    future_rows: int
    within_limit: bool
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    ranges_from: str | None
    keys: dict[str, int]
    key_example: Example | None
    features: tuple[FeatureSkew, ...]
    views: tuple[ViewSkew, ...]

    def feature(self, name: str) -> FeatureSkew:
        """One feature's line."""
        return next(line for line in self.features if line.name == name)

    def view(self, name: str) -> ViewSkew:
        """One view's line."""
        return next(line for line in self.views if line.name == name)


@dataclass(frozen=True)
class SkewReport:
    """Every service that was looked at, and how long it took."""

    services: tuple[ServiceSkew, ...]
    seconds: float

    @property
    def within_limit(self) -> bool:
        """Every service is."""
        return all(service.within_limit for service in self.services)

    def service(self, name: str) -> ServiceSkew:
        """One service's report."""
        return next(found for found in self.services if found.service == name)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON, services by name."""
        services = {found.service: asdict(found) for found in self.services}
        return {"within_limit": self.within_limit, "seconds": self.seconds, "services": services}


def problems_of(report: ServiceSkew) -> tuple[str, ...]:
    """One sentence for each thing that counts against the limit: wrong keys, rows of the future, features that differ."""
    said = [
        f"{key}: {count} vectors were looked up with another value than the entrant's"
        for key, count in report.keys.items()
        if count
    ]
    if said and report.key_example is not None:
        said[0] += f", e.g. {_shown(report.key_example)}"
    for view in report.views:
        names = ", ".join(line.name for line in report.features if line.view == view.name and line.mismatches)
        if view.wrong_key:
            example = view.examples["wrong_key"]
            where = f"e.g. {example['driver_id']} was served that of {example['values_of']} in {example['race_id']}"
            said.append(f"{view.name}: {view.wrong_key} vectors are those of another car ({names}), {where}")
        if view.future:
            example = view.examples["future"]
            where = f"e.g. {example['race_id']} {example['driver_id']} at {example['moment']} from a row of {example['row_of']}"
            said.append(f"{view.name}: {view.future} vectors from rows after their moment, {where}")
    for line in sorted((line for line in report.features if line.mismatches), key=lambda line: -line.mismatches):
        pattern = f", all {line.pattern}" if line.pattern else ""
        seen = f", e.g. {_shown(line.example)}" if line.example else ""
        said.append(f"{line.name}: {line.mismatches} of {line.cells} values differ from history{pattern}{seen}")
    return tuple(said)


def warnings_of(report: ServiceSkew) -> tuple[str, ...]:
    """One sentence for each thing to look at that does not count against the limit."""
    said = []
    for view in report.views:
        if view.older:
            said.append(
                f"{view.name}: {view.older} vectors from older rows than history uses, by up to {view.largest_lag_s:.1f} s"
            )
        if view.missing:
            said.append(f"{view.name}: {view.missing} vectors without a row that history has")
        if view.newer:
            said.append(f"{view.name}: {view.newer} vectors from rows that history does not know")
        if view.aged:
            said.append(f"{view.name}: {view.aged} vectors older at their moment than the view calls fresh")
    for line in report.features:
        if line.out_of_range and line.out_of_range_example is not None:
            where = f"e.g. {line.out_of_range_example['served']!r}"
            said.append(f"{line.name}: {line.out_of_range} values outside what the model was trained on, {where}")
        if line.constant:
            both = "; in history as well" if line.constant_in_history else ""
            said.append(f"{line.name}: served with one value only, in training it had several{both}")
    return tuple(said)


def _shown(example: Example) -> str:
    texts = [repr(example[side]) for side in ("served", "expected")]
    values = [text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..." for text in texts]
    return f"{example['race_id']} {example['driver_id']} at {example['moment']}: served {values[0]}, expected {values[1]}"


def write_report(settings: Settings, report: SkewReport) -> None:
    """Keep the newest report of each service in `reports/skew.json`; those of other services stay."""
    path = settings.reports_dir / "skew.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.reports_dir / ".skew.lock", timeout=60):
        services = (read_json(path) if path.exists() else {}) | report.to_json()["services"]
        write_json(path, services)


def skew_evidence(settings: Settings, services: tuple[str, ...]) -> tuple[SkewEvidence, ...]:
    """What the newest report says about each service, for the gate; a service without report has no vectors."""
    path = settings.reports_dir / "skew.json"
    known = read_json(path) if path.exists() else {}
    found = []
    for service in services:
        if service not in known:
            found.append(SkewEvidence(service, 0, 0, 0, 0, 0, settings.skew_limit, (), ""))
            continue
        report = known[service]
        broken = sorted((line for line in report["features"] if line["mismatches"]), key=lambda line: -line["mismatches"])
        found.append(
            SkewEvidence(
                service=service,
                vectors=report["vectors"],
                cells=report["cells"],
                mismatches=report["mismatches"],
                wrong_keys=report["wrong_keys"],
                future_rows=report["future_rows"],
                limit=settings.skew_limit,
                features=tuple(line["name"] for line in broken[:5]),
                report_sha256=sha256_json(report),
            )
        )
    return tuple(found)
