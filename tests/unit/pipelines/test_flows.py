"""Reports are JSON whatever their fields are, and a step is asked for by its name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from feature_repo.progress import Progress
from feature_repo.settings import Settings
from pipelines import flows
from pipelines.errors import NotTrainedError
from pipelines.flows import STEPS, as_json, run_all, run_step
from pipelines.ingest.base import IngestReport

_NO_SOURCE: Any = None  # the ingest of these tests reads none


@dataclass(frozen=True)
class _View:
    newest: pd.Timestamp | None
    file: Path
    rows: int


@dataclass(frozen=True)
class _Report:
    views: tuple[_View, ...]


class _Own:
    def to_json(self) -> dict[str, Any]:
        return {"own": True}


def test_a_report_is_json_through_and_through() -> None:
    report = as_json(_Report((_View(pd.Timestamp("2024-05-26T13:00:00Z"), Path("a.parquet"), 3), _View(None, Path("b"), 0))))
    assert report == json.loads(json.dumps(report))
    assert report["views"][0] == {"newest": "2024-05-26T13:00:00+00:00", "file": "a.parquet", "rows": 3}
    assert as_json(_Own()) == {"own": True}


@pytest.mark.parametrize("report", [3, _Report])
def test_something_else_is_not_a_report(report: object) -> None:
    with pytest.raises(TypeError, match="expected a dataclass"):
        as_json(report)


def test_every_step_runs_once_in_order_and_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    told: list[str] = []
    bars: list[str] = []

    def ingested(*_args: object, **_options: object) -> IngestReport:
        ran.append("ingest")
        return IngestReport("simulator", True, [2024])

    def done(step: str, _settings: Settings, tell: Progress) -> dict[str, Any]:
        ran.append(step)
        tell(step, 1, 1)
        return {"step": step}

    monkeypatch.setattr(flows, "ingest", ingested)
    monkeypatch.setattr(flows, "run_step", done)
    outcomes = run_all(
        settings,
        _NO_SOURCE,
        [2024],
        progress=lambda step: lambda _what, _done, _total: bars.append(step),
        on_step=lambda outcome: told.append(outcome.step),
    )
    assert tuple(ran) == tuple(told) == STEPS
    assert bars == list(STEPS[1:])
    assert [outcome.report.get("step", "ingest") for outcome in outcomes] == list(STEPS)
    assert all(outcome.peak_mib > 1 for outcome in outcomes)


def test_a_step_that_fails_stops_the_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "ingest", lambda *_args, **_kwargs: IngestReport("simulator", True, [2024]))
    ran: list[str] = []

    def step(name: str, *_: object) -> dict[str, Any]:
        ran.append(name)
        if name == "traces":
            raise NotTrainedError("stop")
        return {}

    monkeypatch.setattr(flows, "run_step", step)
    with pytest.raises(NotTrainedError):
        run_all(settings, _NO_SOURCE, [2024])
    assert ran == ["features", "apply", "materialize", "traces"]


def test_an_unknown_step_is_named(settings: Settings) -> None:
    with pytest.raises(ValueError, match="got 'bake', expected one of features, apply"):
        run_step("bake", settings)
    with pytest.raises(ValueError, match="got 'ingest'"):
        run_step("ingest", settings)
