"""Skew replay: every vector that was served, computed again from history as of its moment, and compared cell by cell.

Reads the feature log, the feature tables (through `historical`, with the created cutoff) and the model's training ranges; writes
`reports/skew.json`, which the gate reads. Works file by file and chunk by chunk, so memory does not grow with the log.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
from feast import FeatureStore

from feature_repo.feature_log_files import LogLayout, log_folder, logged_services, read_log
from feature_repo.parquet_log import dropped_so_far, log_files
from feature_repo.progress import Progress
from feature_repo.settings import Settings
from feature_repo.spine import load_entrants
from feature_repo.store import get_service, open_store, views_of
from feature_repo.visibility import as_utc
from pipelines.errors import NothingServedError
from pipelines.skew_examine import Work, examine
from pipelines.skew_ranges import training_specs
from pipelines.skew_report import ServiceSkew, SkewReport, problems_of, warnings_of, write_report
from pipelines.skew_tally import FeatureTally, ViewTally

CHUNK_ROWS = 5_000

_Window = tuple[pd.Timestamp, pd.Timestamp]
logger = logging.getLogger(__name__)


def skew(
    settings: Settings,
    *,
    since: datetime | str | pd.Timestamp,
    until: datetime | str | pd.Timestamp | None = None,
    service: str | None = None,
    limit: float | None = None,
    progress: Progress | None = None,
) -> SkewReport:
    """Compare what was served in a window with what training would have seen, and keep the report for the gate.

    Args:
        settings: which home.
        since: served at or after this instant.
        until: served at or before it; default now.
        service: one feature service; default every one that was served in the window.
        limit: share of values that may differ; default the setting `skew_limit`.
        progress: told service, vectors done, vectors in all.
    Raises:
        NothingServedError: the log holds nothing of the window.
        InvalidIdError, UnknownServiceError: no such service.
    """
    started = time.perf_counter()
    window = (as_utc(since), as_utc(until or datetime.now(UTC)))
    store = open_store(settings)
    names = [service] if service is not None else logged_services(settings)
    allowed = settings.skew_limit if limit is None else limit
    found = [_service_skew(settings, store, name, window, allowed, progress) for name in names]
    services = tuple(report for report in found if report is not None)
    if not services:
        raise NothingServedError(
            f"{settings.home / 'feature_log'}: nothing of {service or 'any service'} was served from {window[0].isoformat()} to "
            f"{window[1].isoformat()}; serve with PITWALL_LOG_FEATURES=1, or ask for an earlier --since"
        )
    report = SkewReport(services, round(time.perf_counter() - started, 3))
    write_report(settings, report)
    return report


def _service_skew(
    settings: Settings,
    store: FeatureStore,
    service: str,
    window: _Window,
    limit: float,
    progress: Progress | None,
) -> ServiceSkew | None:
    layout = LogLayout.of(store, service)
    views = views_of(store, get_service(store, service))
    specs, ranges_from = training_specs(settings)
    work = Work(
        store=store,
        layout=layout,
        views=views,
        entrants=load_entrants(settings).set_index(["race_id", "driver_id"], drop=False),
        features={name: FeatureTally(name, view.name, specs.get(name)) for view, names in views for name in names},
        tallies={view.name: ViewTally(view.name) for view, _ in views},
        keys=dict.fromkeys(layout.keys, 0),
    )
    notes: list[str] = []
    total = sum(file.rows for file in log_files(log_folder(settings, service)))
    for chunk in _chunks(settings, service, window, layout, notes):
        examine(work, chunk)
        if progress is not None:
            progress(service, work.vectors, total)
    if work.vectors == 0:
        return None
    dropped = dropped_so_far(log_folder(settings, service))
    if dropped["until_us"] >= window[0].value // 1000:
        notes.append(f"{dropped['rows']} older vectors were dropped to bound the log; some of them were served in this window")
    return _report(work, window, limit, ranges_from, notes)


def _chunks(settings: Settings, service: str, window: _Window, layout: LogLayout, notes: list[str]) -> Iterator[pa.Table]:
    """The log in chunks of about `CHUNK_ROWS`, in today's columns; what cannot be compared is noted."""
    held: list[pa.Table] = []
    rows = 0
    for file, table in read_log(settings, service, since=window[0], until=window[1]):
        if table is None:
            notes.append(f"{file.path.name}: {file.rows} vectors are unreadable and were left out")
            continue
        lacking = sorted(set(layout.schema.names) - set(table.column_names))
        if lacking:
            notes.append(
                f"{file.path.name}: {table.num_rows} vectors lack {', '.join(lacking[:3])}: the service has changed since"
            )
            continue
        held.append(table.select(layout.schema.names).cast(layout.schema))
        rows += table.num_rows
        if rows >= CHUNK_ROWS:
            whole = pa.concat_tables(held)
            yield from (whole.slice(start, CHUNK_ROWS) for start in range(0, rows // CHUNK_ROWS * CHUNK_ROWS, CHUNK_ROWS))
            held, rows = [whole.slice(rows // CHUNK_ROWS * CHUNK_ROWS)], rows % CHUNK_ROWS
    if rows:
        yield pa.concat_tables(held)


def _report(work: Work, window: _Window, limit: float, ranges_from: str | None, notes: list[str]) -> ServiceSkew:
    features = tuple(tally.line(work.tallies[tally.view].rows_seen) for tally in work.features.values())
    views = tuple(tally.line() for tally in work.tallies.values())
    cells, mismatches = sum(line.cells for line in features), sum(line.mismatches for line in features)
    share = mismatches / cells if cells else 0.0
    fine = share <= limit and work.wrong_keys == 0 and work.future_rows == 0
    first, last = (pd.Timestamp(us, unit="us", tz="UTC").isoformat() for us in work.served_us or (0, 0))
    report = ServiceSkew(
        service=work.layout.service,
        since=window[0].isoformat(),
        until=window[1].isoformat(),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        vectors=work.vectors,
        requests=work.requests,
        first_served=first,
        last_served=last,
        cells=cells,
        mismatches=mismatches,
        share=share,
        limit=limit,
        wrong_keys=work.wrong_keys,
        future_rows=work.future_rows,
        within_limit=fine,
        problems=(),
        warnings=(),
        ranges_from=ranges_from,
        keys=work.keys,
        key_example=work.key_example,
        features=features,
        views=views,
    )
    if work.strangers:
        notes.append(f"{work.strangers} vectors are about cars that are no entrants of their race; their logged keys were used")
    if work.unsearched:
        notes.append(f"in {work.unsearched} grids that differ nobody looked for the car whose values were served")
    return replace(report, problems=problems_of(report), warnings=(*warnings_of(report), *notes))
