"""What a home holds is counted from its files; parts that were never written count as nothing."""

import json

import pandas as pd

from feature_repo.files import write_parquet
from feature_repo.settings import Settings
from pipelines.status import status


def test_a_new_home_is_empty_and_asking_makes_nothing(settings: Settings) -> None:
    found = status(settings)
    json.dumps(found, allow_nan=False)
    assert (found["lake"]["races"], found["lake"]["entries"], found["lake"]["laps"], found["lake"]["quarantined"]) == (0, 0, 0, 0)
    assert found["features"] == {}
    assert found["traces"] == {"count": 0, "missing": 0}
    assert found["embeddings"]["count"] == 0
    assert found["online"] == {}
    assert (found["models"], found["champion"], found["champion_history"]) == ([], None, [])
    assert found["simulated"] is False
    assert not settings.home.exists()


def test_feature_tables_are_counted_and_entrants_without_pictures_are_missing(settings: Settings) -> None:
    for name, rows in {"grid": 3, "entrants": 5, "moments": 7}.items():
        write_parquet(settings.features_dir / f"{name}.parquet", pd.DataFrame({"x": range(rows)}))
    found = status(settings)
    assert found["features"] == {"grid": {"rows": 3}}
    assert found["traces"] == {"count": 0, "missing": 5}
