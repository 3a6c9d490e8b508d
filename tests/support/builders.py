"""Small training sets and gate evidence whose truth is known, for tests of models, evaluation and gate."""

from dataclasses import replace

import numpy as np
import pandas as pd

from ml.evidence import Evidence, FoldEvidence, GateInputs, KnownAnswer, RaceEvidence
from ml.rows import EMBEDDING_DIM, Rows

COMPOUNDS = ("SOFT", "MEDIUM", "HARD")


def make_rows(
    rng: np.random.Generator,
    n_races: int,
    *,
    n_cars: int = 20,
    first_season: int = 2018,
    races_per_season: int = 6,
    n_noise: int = 4,
    missing: float = 0.05,
    picture_share: float = 0.9,
) -> Rows:
    """Races in which strength decides: tabular features show part of it, the embedding another part, the grid a third.

    Args:
        rng: source of everything.
        n_races: races, `races_per_season` to a season from `first_season` on.
        n_cars: cars of a race, at most 20.
        first_season: season of the first race.
        races_per_season: rounds of a season.
        n_noise: feature columns without information.
        missing: share of numeric feature values that are NaN.
        picture_share: share of rows with a picture.
    """
    keys, features, parts = [], [], []
    skill = rng.normal(size=n_cars)
    for race in range(n_races):
        season, round_ = first_season + race // races_per_season, race % races_per_season + 1
        day = rng.normal(size=n_cars)
        strength = skill + 0.7 * day + 0.5 * rng.normal(size=n_cars)
        retired = rng.random(n_cars) < 0.1
        position = np.argsort(np.argsort(-strength + 10.0 * retired)) + 1
        lap, scheduled = 30, 60
        moment = pd.Timestamp(f"{season}-01-01T14:00:00", tz="UTC") + pd.Timedelta(days=14 * round_)
        keys.append(
            pd.DataFrame(
                {
                    "race_id": f"{season}_{round_:02d}",
                    "driver_id": [f"driver_{car:02d}" for car in range(n_cars)],
                    "season": season,
                    "round": round_,
                    "lap": lap,
                    "event_timestamp": moment.as_unit("us"),
                }
            )
        )
        grid = np.argsort(np.argsort(-(skill + 0.8 * rng.normal(size=n_cars)))) + 1.0
        columns = {
            "grid_position": grid,
            "finish_mean_5": 10.5 - 4.0 * skill + rng.normal(size=n_cars),
            "constructor_points_5": np.repeat(rng.normal(size=(n_cars + 1) // 2), 2)[:n_cars],
            "scheduled_laps": np.full(n_cars, float(scheduled)),
            "air_temp_c": np.full(n_cars, 20.0 + 5.0 * rng.normal()),
        }
        columns |= {f"noise_{index}": rng.normal(size=n_cars) for index in range(n_noise)}
        frame = pd.DataFrame(columns)
        for name in frame.columns:
            if name != "grid_position":
                frame.loc[rng.random(n_cars) < missing, name] = np.nan
        compound = rng.choice(np.array([*COMPOUNDS, None], dtype=object), size=n_cars)
        frame["tire_compound"] = pd.Series(compound, dtype=object)
        features.append(frame)
        direction = np.zeros((n_cars, EMBEDDING_DIM), dtype=np.float32)
        direction[:, :8] = day[:, None] + 0.3 * rng.normal(size=(n_cars, 8))
        direction[:, 8:] = 0.1 * rng.normal(size=(n_cars, EMBEDDING_DIM - 8)) + 0.5 * rng.normal()
        has_picture = rng.random(n_cars) < picture_share
        order = np.argsort(np.argsort(-(strength + 0.3 * rng.normal(size=n_cars)))) + 1.0
        order[rng.random(n_cars) < 0.03] = np.nan
        parts.append((position, ~retired, np.where(has_picture[:, None], direction, 0.0).astype(np.float32), has_picture, order))
    position, finished, embedding, has_picture, order = (np.concatenate(values) for values in zip(*parts, strict=True))
    key_frame = pd.concat(keys, ignore_index=True)
    sha = np.array([f"{index:064x}" if has else "" for index, has in enumerate(has_picture)], dtype=object)
    return Rows(
        keys=key_frame,
        features=pd.concat(features, ignore_index=True),
        position=position.astype(np.int64),
        finished=finished.astype(np.bool_),
        embedding=embedding,
        has_picture=has_picture.astype(np.bool_),
        picture_sha256=sha,
        order=order.astype(np.float64),
    )


def make_probabilities(rng: np.random.Generator, n_rows: int, sharpness: float = 2.0) -> np.ndarray:
    """(n_rows, 20) random distributions."""
    logits = sharpness * rng.normal(size=(n_rows, 20))
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def make_evidence(
    name: str,
    hits: "list[int] | np.ndarray",
    *,
    absolute_error: "list[int] | np.ndarray | None" = None,
    n_rows: int = 20,
    first_season: int = 2020,
    races_per_season: int = 22,
    version: str = "",
    services: tuple[str, ...] = (),
) -> Evidence:
    """Evidence with the given exact hits per race; absolute errors default to 50 places a race."""
    errors = [50] * len(hits) if absolute_error is None else absolute_error
    races = tuple(
        RaceEvidence(
            race_id=f"{first_season + index // races_per_season}_{index % races_per_season + 1:02d}",
            n_rows=n_rows,
            hits=int(hit),
            absolute_error=int(error),
            rows_sha256=f"rows-of-race-{index}",
        )
        for index, (hit, error) in enumerate(zip(hits, errors, strict=True))
    )
    seasons = sorted({int(race.race_id[:4]) for race in races})
    return Evidence(
        name=name,
        races=races,
        folds=tuple(FoldEvidence(season, f"{season - 1}_17", 600, 120) for season in seasons),
        metrics={
            "accuracy": sum(map(int, hits)) / max(n_rows * len(hits), 1),
            "top3": 0.5,
            "mae": 2.5,
            "rps": 0.1,
            "log_loss": 2.2,
        },
        services=services,
        version=version,
    )


def make_gate_inputs(n_races: int = 107, *, baseline_hits: int = 4, candidate_hits: int = 5) -> GateInputs:
    """Inputs the gate promotes: the candidate hits more in every race, everything else is in order."""
    return GateInputs(
        candidate=make_evidence("candidate", [candidate_hits] * n_races, services=("finish_position_v1",)),
        baseline=make_evidence("baseline", [baseline_hits] * n_races),
        champion=make_evidence("champion", [baseline_hits] * n_races, version="3"),
        current_champion="3",
        history=(),
        trivial=(make_evidence("grid_order", [baseline_hits - 1] * n_races),),
        known_answer=KnownAnswer(loaded=True, answered=True, largest_difference=0.0),
    )


def with_race(evidence: Evidence, index: int, **changes: object) -> Evidence:
    """`evidence` with one race changed."""
    races = list(evidence.races)
    races[index] = replace(races[index], **changes)  # type: ignore[arg-type]
    return replace(evidence, races=tuple(races))
