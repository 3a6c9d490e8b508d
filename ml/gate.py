"""The gate: whether a candidate may become champion, decided from evidence alone.

`decide` is pure: frozen evidence in, a `Decision` out; no store, clock, file or model. All evidence is integers per race (exact
hits, absolute errors in places), so the comparisons are exact: 5 % is 1/20, not 0.05000000000000004. `GateInputs` holds
everything a decision was made from, goes to JSON and back, and `replay` derives the same decision from it. What each condition
asks, and why, is in docs/gate.md.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from feature_repo.ids import split_race_id
from ml.evidence import EarlierTry, Evidence, FoldEvidence, GateInputs, KnownAnswer, Limits, RaceEvidence, SkewEvidence
from ml.statistics import relative_gain

__all__ = [
    "Check",
    "Decision",
    "EarlierTry",
    "Evidence",
    "FoldEvidence",
    "GateInputs",
    "KnownAnswer",
    "Limits",
    "RaceEvidence",
    "SkewEvidence",
    "decide",
    "decide_from",
    "level_of_try",
    "replay",
]

REQUIRED_METRICS = ("accuracy", "top3", "mae", "rps", "log_loss")
RUNNING_ORDER_SERVICE = "race_state_v1"
_DRAWS_BEYOND_BOUND = 4  # fewer bootstrap draws beyond the bound than this are no bound


@dataclass(frozen=True)
class Check:
    """One condition: `value` against `limit` (None where it is not a number), and a sentence with both."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    message: str


@dataclass(frozen=True)
class Decision:
    """The verdict and all that led to it.

    Attributes:
        promote: every check passed.
        relative_gain: in exact hits over the baseline; None when it cannot be computed.
        gain_low: lower end of its two-sided 95 % interval over races.
        gain_high: upper end.
        reasons: one sentence per failed check: condition, number, limit. Empty when promoted.
        checks: every condition, in order.
        inputs_sha256: hash of the `GateInputs` decided on.
    """

    promote: bool
    relative_gain: float | None
    gain_low: float | None
    gain_high: float | None
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    inputs_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def level_of_try(n_try: int, *, alpha: float = 0.05, first_try_share: float = 0.8) -> float:
    """Significance level of the `n_try`-th try (1 = first) on overlapping test seasons; over all tries they sum to `alpha`.

    The first try gets `first_try_share` of `alpha`: only its candidate cannot have been shaped by earlier verdicts. The rest is
    spread over the later ones as 1/(j (j + 1)), j = 1, 2, ..., which sums to 1. By the union bound, candidates that are no
    better than the baseline pass at most `alpha` of the time however many are tried. A level that the bootstrap's draws cannot
    resolve is refused (`_check_bound`).
    """
    if n_try < 1:
        raise ValueError(f"n_try: got {n_try}, expected 1 or more")
    if n_try == 1:
        return alpha * first_try_share
    later = n_try - 1
    return alpha * (1.0 - first_try_share) / (later * (later + 1))


def decide(
    candidate: Evidence,
    baseline: Evidence,
    champion: Evidence | None,
    history: Sequence[EarlierTry],
    *,
    trivial: Iterable[Evidence],
    known_answer: KnownAnswer,
    current_champion: str = "",
    limits: Limits | None = None,
    skew: Sequence[SkewEvidence] | None = None,
) -> Decision:
    """Whether `candidate` may become champion; see `GateInputs` for the arguments and docs/gate.md for the conditions."""
    return decide_from(
        GateInputs(
            candidate=candidate,
            baseline=baseline,
            champion=champion,
            current_champion=current_champion,
            history=tuple(history),
            trivial=tuple(trivial),
            known_answer=known_answer,
            limits=limits or Limits(),
            skew=None if skew is None else tuple(skew),
        )
    )


def replay(stored: dict[str, Any]) -> Decision:
    """The decision that follows from stored inputs (`GateInputs.to_dict`).

    Raises:
        EvidenceError: they cannot be read.
    """
    return decide_from(GateInputs.from_dict(stored))


def decide_from(inputs: GateInputs) -> Decision:
    """`decide` with the arguments as one object. All conditions are checked, also after one has failed."""
    candidate, baseline, limits = inputs.candidate, inputs.baseline, inputs.limits
    pairs = _common(candidate, baseline)
    interval = _interval(pairs, limits, level_of_try(_n_try(inputs), alpha=limits.alpha, first_try_share=limits.first_try_share))
    checks = [
        _check_finite(inputs),
        _check_same_rows("same_rows_as_baseline", candidate, baseline),
        _check_enough_races(pairs, limits),
        _check_gain(pairs, limits),
        _check_bound(interval, inputs),
        _check_mae("mae_not_worse_than_baseline", pairs),
        *_check_trivial(inputs),
        *_check_champion(inputs),
        _check_unseen(candidate),
        _check_known_answer(inputs.known_answer, limits),
        *[_check_skew(skew) for skew in inputs.skew or ()],
    ]
    reasons = tuple(check.message for check in checks if not check.passed)
    gain, low, high, _, _ = interval
    return Decision(
        promote=not reasons,
        relative_gain=_finite_or_none(gain),
        gain_low=_finite_or_none(low),
        gain_high=_finite_or_none(high),
        reasons=reasons,
        checks=tuple(checks),
        inputs_sha256=inputs.sha256,
    )


_Pairs = list[tuple[RaceEvidence, RaceEvidence]]


def _common(one: Evidence, other: Evidence) -> _Pairs:
    """Races both scored on the same rows."""
    theirs = {race.race_id: race for race in other.races}
    return [
        (race, match)
        for race in one.races
        if (match := theirs.get(race.race_id)) is not None
        and (race.rows_sha256, race.n_rows) == (match.rows_sha256, match.n_rows)
    ]


def _n_try(inputs: GateInputs) -> int:
    """1 + the different earlier candidates that were scored on a season this one is scored on."""
    mine, seasons = inputs.candidate.fingerprint, inputs.candidate.test_seasons
    return 1 + len({old.fingerprint for old in inputs.history if old.fingerprint != mine and seasons & set(old.test_seasons)})


def _interval(pairs: _Pairs, limits: Limits, level: float) -> tuple[float, float, float, float, float]:
    """Gain, its two-sided 95 % interval, its one-sided bound, the bound's level; NaN where there is nothing to compare."""
    nan = float("nan")
    if len(pairs) < 2:
        return nan, nan, nan, nan, level
    gain = relative_gain(
        np.array([mine.hits for mine, _ in pairs], dtype=np.float64),
        np.array([theirs.hits for _, theirs in pairs], dtype=np.float64),
        bound_confidence=1.0 - level,
        n_resamples=limits.n_resamples,
        seed=limits.seed,
    )
    return gain.estimate, gain.low, gain.high, gain.bound, level


def _check_finite(inputs: GateInputs) -> Check:
    models = [inputs.candidate, inputs.baseline, *inputs.trivial, *([inputs.champion] if inputs.champion else [])]
    broken = [
        f"{model.name}.{metric} = {model.metrics.get(metric, 'missing')}"
        for model in models
        for metric in sorted({*REQUIRED_METRICS, *model.metrics})
        if not math.isfinite(model.metrics.get(metric, math.nan))
    ]
    message = (
        f"finite: {', '.join(broken)}; expected finite numbers" if broken else f"finite: all metrics of {len(models)} models"
    )
    return Check("finite", not broken, float(len(broken)), 0.0, message)


def _check_same_rows(name: str, candidate: Evidence, other: Evidence) -> Check:
    agreed = {mine.race_id for mine, _ in _common(candidate, other)}
    differing = sorted({race.race_id for race in (*candidate.races, *other.races)} - agreed)
    passed = not differing and bool(agreed)
    detail = f", the first is {differing[0]}" if differing else ""
    message = (
        f"{name}: {len(differing)} of {len(agreed) + len(differing)} races were not scored on the same rows by {candidate.name} "
        f"({candidate.n_rows} rows) and {other.name} ({other.n_rows} rows){detail}; limit 0"
    )
    return Check(name, passed, float(len(differing)), 0.0, message)


def _check_enough_races(pairs: _Pairs, limits: Limits) -> Check:
    message = f"enough_races: {len(pairs)} races, limit at least {limits.min_races}"
    return Check("enough_races", len(pairs) >= limits.min_races, float(len(pairs)), float(limits.min_races), message)


def _check_gain(pairs: _Pairs, limits: Limits) -> Check:
    mine, theirs = sum(race.hits for race, _ in pairs), sum(race.hits for _, race in pairs)
    limit = Fraction(*limits.min_gain)
    gain = Fraction(mine - theirs, theirs) if theirs else None
    shown = f"{float(gain) * 100:+.6g} %" if gain is not None else "undefined"
    message = f"gain_over_baseline: {shown} ({mine} exact hits against {theirs}), limit more than {float(limit) * 100:+g} %"
    value = float(gain) if gain is not None else None
    return Check("gain_over_baseline", gain is not None and gain > limit, value, float(limit), message)


def _check_bound(interval: tuple[float, float, float, float, float], inputs: GateInputs) -> Check:
    _, _, _, bound, level = interval
    if level * inputs.limits.n_resamples < _DRAWS_BEYOND_BOUND:
        message = (
            f"gain_bound: try {_n_try(inputs)} on these seasons asks for a level of {level:.2g}, which "
            f"{inputs.limits.n_resamples} draws cannot resolve; wait for races of a new season"
        )
        return Check("gain_bound", False, _finite_or_none(bound), 0.0, message)
    message = (
        f"gain_bound: one-sided {100 * (1 - level):.4g} % lower bound of the gain over races is {bound * 100:+.3g} % "
        f"(try {_n_try(inputs)} on these seasons), limit more than 0 %"
    )
    return Check("gain_bound", bound > 0, _finite_or_none(bound), 0.0, message)


def _check_mae(name: str, pairs: _Pairs) -> Check:
    mine, theirs = sum(race.absolute_error for race, _ in pairs), sum(race.absolute_error for _, race in pairs)
    rows = sum(race.n_rows for race, _ in pairs)
    if rows == 0:
        return Check(name, False, None, None, f"{name}: no common rows to compare on")
    message = f"{name}: mean absolute error {mine / rows:.4f} places, limit at most {theirs / rows:.4f}"
    return Check(name, mine <= theirs, mine / rows, theirs / rows, message)


def _check_trivial(inputs: GateInputs) -> list[Check]:
    """Every trivial predictor the candidate's inputs allow must be there, on the same rows, and be beaten in exact hits."""
    required = ["grid_order"] + (["order_at_moment"] if RUNNING_ORDER_SERVICE in inputs.candidate.services else [])
    given = {model.name: model for model in inputs.trivial}
    checks = []
    for name in required:
        label = f"beats_{name}"
        if name not in given:
            checks.append(Check(label, False, None, None, f"{label}: {name} was not scored, and the candidate's inputs allow it"))
            continue
        checks.append(_check_same_rows(f"same_rows_as_{name}", inputs.candidate, given[name]))
        checks.append(_check_hits(label, _common(inputs.candidate, given[name]), strictly=True))
    return checks


def _check_hits(name: str, pairs: _Pairs, *, strictly: bool) -> Check:
    mine, theirs = sum(race.hits for race, _ in pairs), sum(race.hits for _, race in pairs)
    passed = bool(pairs) and (mine > theirs if strictly else mine >= theirs)
    asked = "more than" if strictly else "at least"
    message = f"{name}: {mine} exact hits on {len(pairs)} common races, limit {asked} {theirs}"
    return Check(name, passed, float(mine), float(theirs), message)


def _check_champion(inputs: GateInputs) -> list[Check]:
    """The champion compared with is the one that would be replaced, and is not better on the rows both scored."""
    scored = inputs.champion.version if inputs.champion else ""
    current = inputs.current_champion
    message = (
        f"champion_current: compared with version {scored or 'none'}, the champion now is {current or 'none'}; limit the same"
    )
    named = inputs.champion is None or bool(scored)
    checks = [Check("champion_current", named and scored == current, None, None, message)]
    if inputs.champion is not None:
        pairs = _common(inputs.candidate, inputs.champion)
        checks.append(_check_hits("not_worse_than_champion", pairs, strictly=False))
        checks.append(_check_mae("mae_not_worse_than_champion", pairs))
    return checks


def _check_unseen(candidate: Evidence) -> Check:
    """Each season scored has one fold, and nothing that fold saw is of that season or later."""
    problems = []
    for season in sorted(candidate.test_seasons):
        seen = [fold.last_race_seen for fold in candidate.folds if fold.test_season == season]
        if len(seen) != 1:
            problems.append(f"season {season} has {len(seen)} folds, expected 1")
        elif split_race_id(seen[0])[0] >= season:
            problems.append(f"season {season} was scored by a model that had seen race {seen[0]}")
    if not candidate.races:
        problems.append("no race was scored")
    found = "; ".join(problems) or "every season was scored by a model of earlier seasons"
    message = f"test_season_unseen: {found}; limit 0 violations"
    return Check("test_season_unseen", not problems, float(len(problems)), 0.0, message)


def _check_known_answer(answer: KnownAnswer, limits: Limits) -> Check:
    passed = answer.loaded and answer.answered and answer.largest_difference <= limits.max_answer_difference
    state = "did not load" if not answer.loaded else "loaded but did not answer" if not answer.answered else "answered"
    detail = f" ({answer.detail})" if answer.detail else ""
    message = (
        f"known_answer: in a fresh process the model {state}{detail}, largest difference {answer.largest_difference:.3g}, "
        f"limit at most {limits.max_answer_difference:g}"
    )
    return Check("known_answer", passed, _finite_or_none(answer.largest_difference), limits.max_answer_difference, message)


def _check_skew(skew: SkewEvidence) -> Check:
    """What was served from the service is what training would have seen; without a report there is nothing to hold against it."""
    name = f"skew_of_{skew.service}"
    if skew.vectors == 0:
        message = (
            f"{name}: no served vector was compared with history yet (run `pitwall skew`); limit {skew.limit:.3g} of the values"
        )
        return Check(name, True, None, skew.limit, message)
    worst = f" ({', '.join(skew.features)})" if skew.features else ""
    message = (
        f"{name}: {skew.mismatches} of {skew.cells} served values differ from history{worst}, {skew.wrong_keys} vectors are of "
        f"another car, {skew.future_rows} from the future; limit {skew.limit:.3g} of the values, 0 and 0"
    )
    return Check(name, skew.within_limit, skew.share, skew.limit, message)


def _finite_or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
