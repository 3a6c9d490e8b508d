"""Writes the examples of the API's answers, from a home that `make demo` made: `python tests/support/api_examples.py data`.

Lists and tables are cut to their first items. The move of a champion is written by hand: the home is left as it is.
"""

import json
import sys
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from feature_repo.files import write_text
from feature_repo.settings import Settings
from serving.app import create_app
from serving.replay import replay
from serving.schemas import answers

RACE, DRIVER = "2024_16", "ines_dubois"
WHOLE = {"probabilities", "edges", "counts"}
"""Lists that mean nothing in part."""

MOVE = {
    "version": "3",
    "previous": "2",
    "reason": "promotion",
    "at": "2026-11-20T12:00:00+00:00",
    "serving": {"problems": {}, "version": "3", "role": "champion"},
}


def short(part: Any, keep: int, *, name: str = "") -> Any:
    """The first items of lists and of long tables, all the way down."""
    if isinstance(part, dict):
        items = list(part.items())
        of_names = len(items) > 12 and all(isinstance(value, dict) for value in part.values())
        return {key: short(value, keep, name=key) for key, value in (items[:keep] if of_names else items)}
    if isinstance(part, list):
        return part if name in WHOLE else [short(one, keep) for one in part[:keep]]
    return part


def examples(home: Path) -> dict[str, Any]:
    """Name of an answer's model -> an answer."""
    settings = Settings(home=home)
    replay(settings, RACE, speed=0.0, to_lap=1)
    with TestClient(create_app(settings)) as client:

        def said(path: str, body: dict[str, Any] | None = None) -> Any:
            answer = client.get(path) if body is None else client.post(path, json=body)
            return answer.json()

        row = {"race_id": RACE, "driver_id": DRIVER}
        return {
            "ErrorBody": said("/v1/races/2024_99"),
            "FeaturesResponse": short(said("/v1/features", {"service": "finish_position_v1", "entity_rows": [row]}), 2),
            "PredictResponse": short(said("/v1/predict", {"race_id": RACE, "lap": 20}), 2),
            "RacesResponse": short(said("/v1/races"), 2),
            "RaceResponse": short(said(f"/v1/races/{RACE}"), 2),
            "MomentResponse": short(said(f"/v1/races/{RACE}/moment?lap=20"), 2),
            "ReplayResponse": short(said(f"/v1/races/{RACE}/replay"), 2),
            "ModelsResponse": short(said("/v1/models"), 1),
            "DecisionsResponse": short(said("/v1/models/finish_position/decisions"), 1),
            "MoveResponse": MOVE,
            "CatalogueResponse": short(said("/v1/catalogue"), 1),
            "HealthResponse": said("/healthz"),
            "ReadyResponse": said("/readyz"),
        }


if __name__ == "__main__":
    text = json.dumps(examples(Path(sys.argv[1])), indent=1, ensure_ascii=False) + "\n"
    write_text(Path(answers.__file__).parent / "examples.json", text)
