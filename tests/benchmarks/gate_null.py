"""How often the gate promotes candidates that are no better than the baseline, and ones that are: a simulation with a table.

Run from the repository root: `python tests/benchmarks/gate_null.py --worlds 2000`. Both models score the same cars of the same
races. Races differ in how predictable they are, and hits of the two models on the same car are correlated; both numbers default
to what was measured between the tabular ensemble and the picture model on the real races (docs/gate.md). Decisions are made by
`ml.gate.decide` itself, with everything that is not chance (loading, folds, champion) in order.
"""

import argparse
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ml.evidence import EarlierTry, Evidence, FoldEvidence, KnownAnswer, RaceEvidence
from ml.gate import decide

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """What is drawn.

    Attributes:
        n_races: test races, 20 cars each.
        accuracy: mean exact accuracy of the baseline.
        race_spread: standard deviation between races of how predictable they are, the same for all models, on the scale of a
            normal quantile.
        own_spread: the same for each model by itself: one car misplaced shifts its neighbours, so hits of a race go together.
        hit_correlation: correlation of the normal variables behind two models' hits on the same car.
        error_per_car: mean absolute error of both models, places.
        error_spread: standard deviation over races of the difference of two models' mean absolute errors, places.
        mae_always_better: the candidate's absolute error is always lower, so that the condition on it never helps.
    """

    n_races: int = 107
    accuracy: float = 0.171
    race_spread: float = 0.25
    own_spread: float = 0.2
    hit_correlation: float = 0.3
    error_per_car: float = 2.9
    error_spread: float = 0.69
    mae_always_better: bool = False
    n_cars: int = 20


def draw_hits(rng: np.random.Generator, world: World, gains: list[float]) -> list[IntArray]:
    """(n_races) exact hits per model; the mean accuracy of model m is `accuracy * (1 + gains[m])`."""
    race = world.race_spread * rng.normal(size=(world.n_races, 1))
    widened = np.sqrt(1 + world.race_spread**2 + world.own_spread**2)
    shared = rng.normal(size=(world.n_races, world.n_cars))
    hits = []
    for gain in gains:
        own = rng.normal(size=(world.n_races, world.n_cars))
        luck = np.sqrt(world.hit_correlation) * shared + np.sqrt(1 - world.hit_correlation) * own
        level = stats.norm.ppf(world.accuracy * (1 + gain)) * widened + race
        level = level + world.own_spread * rng.normal(size=(world.n_races, 1))
        hits.append((luck < level).sum(axis=1))
    return hits


def draw_errors(rng: np.random.Generator, world: World, gains: list[float]) -> list[IntArray]:
    """(n_races) summed absolute errors; the candidates' fall with their true gain (half as much) or always."""
    base = world.n_cars * (world.error_per_car + 0.8 * rng.normal(size=world.n_races))
    errors = [base]
    for gain in gains[1:]:
        change = -gain / 2 * world.error_per_car - (0.5 if world.mae_always_better else 0.0)
        errors.append(base + world.n_cars * (change + world.error_spread * rng.normal(size=world.n_races)))
    return [np.maximum(error.round(), 0).astype(np.int64) for error in errors]


def as_evidence(name: str, hits: IntArray, errors: IntArray) -> Evidence:
    """Evidence on seasons 2020 and later, 22 races each."""
    races = tuple(
        RaceEvidence(f"{2020 + i // 22}_{i % 22 + 1:02d}", 20, int(hit), int(error), f"race {i}")
        for i, (hit, error) in enumerate(zip(hits, errors, strict=True))
    )
    folds = tuple(FoldEvidence(season, f"{season - 1}_20", 800, 160) for season in sorted({int(r.race_id[:4]) for r in races}))
    return Evidence(
        name, races, folds, dict.fromkeys(("accuracy", "top3", "mae", "rps", "log_loss"), 1.0), ("finish_position_v1",)
    )


def promoted_at(rng: np.random.Generator, world: World, gain: float, tries: int) -> int | None:
    """The try (1 = first) at which one of `tries` candidates of the same true gain is promoted; None if none is."""
    gains = [0.0] + [gain] * tries
    hits = draw_hits(rng, world, gains)
    errors = draw_errors(rng, world, gains)
    baseline = as_evidence("baseline", hits[0], errors[0])
    grid_order = as_evidence("grid_order", hits[0] * 0, errors[0])
    history: list[EarlierTry] = []
    for number in range(1, tries + 1):
        candidate = as_evidence(f"candidate {number}", hits[number], errors[number])
        decision = decide(
            candidate,
            baseline,
            None,
            history,
            trivial=[grid_order],
            known_answer=KnownAnswer(True, True, 0.0),
            current_champion="",
        )
        if decision.promote:
            return number
        history.append(EarlierTry(candidate.fingerprint, tuple(candidate.test_seasons)))
    return None


def promotion_rates(world: World, gain: float, *, tries: int, worlds: int, seed: int) -> tuple[float, float]:
    """Share of simulated worlds in which the first candidate, and any of `tries` candidates, is promoted."""
    rng = np.random.default_rng(seed)
    at = [promoted_at(rng, world, gain, tries) for _ in range(worlds)]
    return sum(number == 1 for number in at) / worlds, sum(number is not None for number in at) / worlds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    standard = World()
    hard = replace(standard, mae_always_better=True)
    cases = [
        ("no better", standard, 0.0, arguments.tries),
        ("no better, but always lower MAE", hard, 0.0, arguments.tries),
        ("no better, lower MAE, hits uncorrelated", replace(hard, hit_correlation=0.0, race_spread=0.0), 0.0, 1),
        ("no better, lower MAE, 44 races", replace(hard, n_races=44), 0.0, 1),
        ("no better, lower MAE, 22 races", replace(hard, n_races=22), 0.0, 1),
        ("no better, lower MAE, 12 races", replace(hard, n_races=12), 0.0, 1),
        ("+5 %", standard, 0.05, 1),
        ("+10 %", standard, 0.10, 1),
        ("+15 %", standard, 0.15, 1),
        ("+20 %", standard, 0.20, 1),
        ("+30 %", standard, 0.30, 1),
        ("+20 %, 22 races", replace(standard, n_races=22), 0.20, 1),
    ]
    print("| candidate (true gain in exact accuracy) | races | promoted at the first try | at any of n tries |")
    print("|---|---|---|---|")
    start = time.perf_counter()
    for label, world, gain, tries in cases:
        first, ever = promotion_rates(world, gain, tries=tries, worlds=arguments.worlds, seed=arguments.seed)
        error = 100 * np.sqrt(max(first * (1 - first), 0.25 / arguments.worlds) / arguments.worlds)
        shown = f"{100 * ever:.1f} % of {tries}" if tries > 1 else ""
        print(f"| {label} | {world.n_races} | {100 * first:.1f} % (± {error:.1f}) | {shown} |", flush=True)
    print(f"\n{arguments.worlds} worlds a line, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
