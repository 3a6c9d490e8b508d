"""What a home holds: counts of the lake, features, pictures, embeddings and online rows, the models and the champion.

Every part is read from what is on disk; a part that was never written counts as empty, so `status` works on a new home.
"""

from datetime import UTC, datetime
from typing import Any

import pyarrow.parquet as pq

from feature_repo.settings import Settings
from pipelines.features.tables import SPINE_TABLES
from pipelines.lake import Lake


def status(settings: Settings) -> dict[str, Any]:
    """`lake, features, traces, embeddings, online, models, champion` of a home, as one JSON object."""
    lake = Lake(settings.lake_dir)
    counts = lake.counts()
    return {
        "home": str(settings.home),
        "simulated": lake.is_simulated,
        "lake": {
            "races": counts["races"],
            "entries": counts["entries"],
            "laps": counts["laps"],
            "quarantined": counts.pop("quarantined"),
            "tables": counts,
        },
        "features": _features(settings),
        "traces": _traces(settings),
        "embeddings": _embeddings(settings),
        "online": _online(settings),
        **_models(settings),
    }


def _features(settings: Settings) -> dict[str, Any]:
    views = {}
    for path in sorted(settings.features_dir.glob("*.parquet")):
        if path.stem not in SPINE_TABLES:
            views[path.stem] = {"rows": pq.read_metadata(path).num_rows}
    return views


def _traces(settings: Settings) -> dict[str, Any]:
    """Pictures of the default moment, and entrants without one."""
    entrants = settings.features_dir / "entrants.parquet"
    entered = pq.read_metadata(entrants).num_rows if entrants.exists() else 0
    if not (settings.multimodal_dir / "speed_traces").exists():
        return {"count": 0, "missing": entered}
    from ml.traces.store import ImageArtifactStore

    manifest = ImageArtifactStore(settings.multimodal_dir).manifest()
    count = int(manifest["is_default"].sum())
    return {"count": count, "missing": max(entered - count, 0), "other_moments": len(manifest) - count}


def _embeddings(settings: Settings) -> dict[str, Any]:
    if not settings.embeddings_dir.exists():
        return {"count": 0, "encoder": None}
    from pipelines.embeddings import embeddings_status

    return embeddings_status(settings)


def _online(settings: Settings) -> dict[str, Any]:
    if settings.registry_url is None and not (settings.home / "registry.db").exists():
        return {}  # nothing was applied; Feast takes seconds to import
    from pipelines.materialize import online_status

    now = datetime.now(UTC)
    return {
        view: {
            "rows": held.rows,
            "newest": None if held.newest is None else held.newest.isoformat(),
            "age_s": None if held.newest is None else (now - held.newest).total_seconds(),
        }
        for view, held in online_status(settings, now).items()
    }


def _models(settings: Settings) -> dict[str, Any]:
    if settings.mlflow_tracking_uri is None and not (settings.home / "mlflow.db").exists():
        return {"models": [], "champion": None, "champion_history": []}
    from pipelines.registry import CHAMPION, MODEL_NAME, alias_version, champion_history, open_registry

    client = open_registry(settings)
    versions = sorted(client.search_model_versions(f"name = '{MODEL_NAME}'"), key=lambda found: int(found.version))
    return {
        "models": [
            {
                "version": str(found.version),
                "model": found.tags.get("pitwall.model"),
                "role": found.tags.get("pitwall.role"),
                "verdict": found.tags.get("gate.verdict"),
                "created": datetime.fromtimestamp(found.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
            }
            for found in versions
        ],
        "champion": alias_version(client, CHAMPION),
        "champion_history": [move.to_json() for move in champion_history(client)],
    }
