"""Champion against challenger on the races that both answered about, once results are known.

Answers are paired by race and moment: the same cars, from what was known at the same instant. A race counts once, however often
it was asked about: its moments are averaged first. Cars of a race share its chaos, so uncertainty comes from races
(`ml/statistics.py`), and below as many races as the promotion gate asks for nothing is concluded.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_repo.errors import PitwallError
from feature_repo.parquet_log import dropped_so_far
from feature_repo.settings import Settings
from feature_repo.store import historical, open_store
from feature_repo.visibility import EVENT, as_utc
from ml.evidence import Limits
from ml.metrics import exact_accuracy, log_loss, mean_absolute_error, ranked_probability_score
from ml.registry import CHALLENGER, CHAMPION
from ml.rows import N_POSITIONS
from ml.statistics import Gain, difference
from serving.prediction_log import SERVED_AT, SHADOW, prediction_log_folder, read_predictions
from serving.races import result_known

DECIDING = "rps"
"""The metric a conclusion is drawn from: a proper score of the whole distribution, named before any answer is looked at."""

HIGHER_IS_BETTER = {"exact": True, "mae": False, "log_loss": False, "rps": False}
RESULT_SERVICE = "race_result_v1"
_ANSWER = ["role", "model_version", "model", "race_id", "as_of", SERVED_AT]
_COLUMNS = [*_ANSWER, "driver_id", "saw_this_race", "place", "probabilities"]


@dataclass(frozen=True)
class Arm:
    """A model in a role: `champion`, `challenger` (its answers were shown for its share of races) or `shadow` (never shown)."""

    role: str
    version: str
    model: str


@dataclass(frozen=True)
class MetricGap:
    """One metric of two arms on the same rows.

    Attributes:
        champion, other: means per car.
        gap: other minus champion, with its interval.
        better: the arm that is better, `champion` or the other's role, where the interval leaves 0 out; None where it does not,
            or there are too few races.
    """

    champion: float
    other: float
    gap: Gain
    better: str | None


@dataclass(frozen=True)
class Comparison:
    """Champion against another arm.

    Attributes:
        champion, other: the arms.
        n_races, n_moments, n_rows: paired, of races with a known result that neither model had learnt from, at moments before
            that result was published.
        metrics: `exact`, `mae` (places), `log_loss` (nats), `rps`; empty below 2 races.
        conclusion: in one sentence.
        waiting: races both answered about whose result is not known yet.
        learnt_from: races left out because one of the models had learnt from them.
    """

    champion: Arm
    other: Arm
    n_races: int
    n_moments: int
    n_rows: int
    metrics: dict[str, MetricGap]
    conclusion: str
    waiting: list[str]
    learnt_from: list[str]


@dataclass(frozen=True)
class AbReport:
    """All comparisons in a window.

    Attributes:
        since, until: of the answers, by when they were served.
        n_answers: different answers of champion, challenger and shadow.
        arms: arm and how many different answers it gave.
        comparisons: each champion version against each other arm that answered about one of its moments.
        unreadable: files of the log that cannot be read.
        dropped_until: newest instant of rows dropped from the log to bound it, if within the window; the report lacks them.
    """

    since: pd.Timestamp
    until: pd.Timestamp
    n_answers: int
    arms: list[dict[str, Any]]
    comparisons: list[Comparison]
    unreadable: list[str]
    dropped_until: pd.Timestamp | None

    def to_json(self) -> dict[str, Any]:
        """The report as JSON; numbers that are not finite are null."""
        report = asdict(self)
        for comparison, said in zip(self.comparisons, report["comparisons"], strict=True):
            for name, metric in comparison.metrics.items():
                said["metrics"][name]["gap"] = metric.gap.to_dict()
        return report


class NothingToCompareError(PitwallError, LookupError):
    """The log of predictions holds no answer of a champion, challenger or shadow in the window."""


def ab_report(settings: Settings, *, since: pd.Timestamp | None = None, until: pd.Timestamp | None = None) -> AbReport:
    """Compare what champion, challenger and shadow said with how the races ended, as known now.

    Args:
        settings: which home.
        since: only answers served from then on; default all.
        until: only answers served until then; default now.
    Raises:
        NothingToCompareError: no such answers.
        NotAppliedError: the home has no feature registry.
    """
    window = (as_utc(since or pd.Timestamp(0, tz="UTC")), as_utc(until or pd.Timestamp.now("UTC")))
    answers, unreadable = _answers(settings, *window)
    if not answers:
        raise NothingToCompareError(
            f"{prediction_log_folder(settings)}: no answer of a champion, challenger or shadow from {window[0].isoformat()} to "
            f"{window[1].isoformat()}; serve with PITWALL_CHALLENGER_SHARE above 0, or PITWALL_CHALLENGER_SHADOW, first"
        )
    results = _results(settings, answers)
    arms = sorted({arm for arm, _ in answers}, key=lambda arm: (arm.role, arm.version))
    comparisons = [
        _compare(settings, champion, other, answers, results)
        for champion in arms
        if champion.role == CHAMPION
        for other in arms
        if other.role != CHAMPION and _have_met(champion, other, answers)
    ]
    dropped_us = dropped_so_far(prediction_log_folder(settings))["until_us"]
    dropped = pd.Timestamp(dropped_us, unit="us", tz="UTC") if dropped_us >= window[0].value // 1000 and dropped_us else None
    counted = [{**vars(arm), "answers": sum(each == arm for each, _ in answers)} for arm in arms]
    return AbReport(*window, len(answers), counted, comparisons, unreadable, dropped)


@dataclass(frozen=True)
class _Moment:
    race_id: str
    as_of_us: int


@dataclass(frozen=True)
class _Answer:
    """What an arm said at a moment: places (N,), probabilities (N, 20) by driver."""

    driver_ids: tuple[str, ...]
    place: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    saw: str
    served_us: int


_Answers = dict[tuple[Arm, _Moment], _Answer]


def _answers(settings: Settings, since: pd.Timestamp, until: pd.Timestamp) -> tuple[_Answers, list[str]]:
    """The newest answer of each arm at each moment; a question asked again is answered alike, and counts once."""
    found: _Answers = {}
    unreadable = []
    for file, table in read_predictions(settings, since=since, until=until):
        if table is None:
            unreadable.append(file.path.name)
            continue
        frame = table.select(_COLUMNS).to_pandas()
        frame = frame[frame["role"].isin([CHAMPION, CHALLENGER, SHADOW])]
        # Two requests may have been answered in the same microsecond.
        frame = frame.drop_duplicates([*_ANSWER, "driver_id"])
        for (role, version, model, race_id, as_of, served_at), rows in frame.groupby(_ANSWER, sort=False):
            key = (Arm(str(role), str(version), str(model)), _Moment(str(race_id), as_of.value // 1000))
            said = _Answer(
                tuple(rows["driver_id"]),
                rows["place"].to_numpy(np.int64),
                np.stack(rows["probabilities"].to_list()),
                str(rows["saw_this_race"].iloc[0]),
                served_at.value // 1000,
            )
            held = found.get(key)
            # The whole field before part of it, then the newer one.
            if held is None or (len(said.driver_ids), said.served_us) >= (len(held.driver_ids), held.served_us):
                found[key] = said
    return found, unreadable


def _results(settings: Settings, answers: _Answers) -> dict[str, dict[str, int]]:
    """race_id -> driver_id -> finishing position, for races whose result is known now."""
    pairs = sorted({(moment.race_id, driver) for (_, moment), said in answers.items() for driver in said.driver_ids})
    spine = pd.DataFrame(pairs, columns=["race_id", "driver_id"]).assign(**{EVENT: pd.Timestamp.now("UTC")})
    known = historical(open_store(settings), RESULT_SERVICE, spine).dropna(subset=["finish_position"])
    known = known[known["finish_position"].between(1, N_POSITIONS)]
    results: dict[str, dict[str, int]] = {}
    for row in known.itertuples():
        results.setdefault(row.race_id, {})[row.driver_id] = int(row.finish_position)
    return results


def _have_met(champion: Arm, other: Arm, answers: _Answers) -> bool:
    return any((champion, moment) in answers for arm, moment in answers if arm == other)


def _compare(
    settings: Settings, champion: Arm, other: Arm, answers: _Answers, results: Mapping[str, Mapping[str, int]]
) -> Comparison:
    moments = sorted(
        (moment for arm, moment in answers if arm == other and (champion, moment) in answers),
        key=lambda moment: (moment.race_id, moment.as_of_us),
    )
    waiting, learnt_from = set(), set()
    sums: dict[str, list[NDArray[np.float64]]] = {}
    cars: dict[str, int] = {}
    for moment in moments:
        one, two = answers[champion, moment], answers[other, moment]
        if one.saw != "no" or two.saw != "no":
            learnt_from.add(moment.race_id)
            continue
        if result_known(settings, moment.race_id, pd.Timestamp(moment.as_of_us, unit="us", tz="UTC")):
            continue  # the features knew how it ended
        result = results.get(moment.race_id, {})
        drivers = sorted(set(one.driver_ids) & set(two.driver_ids) & set(result))
        if not drivers:
            waiting.add(moment.race_id)
            continue
        position = np.array([result[driver] for driver in drivers])
        # (2, metrics): means per car of the moment
        sums.setdefault(moment.race_id, []).append(np.stack([_scores(said, drivers, position) for said in (one, two)]))
        cars[moment.race_id] = max(len(drivers), cars.get(moment.race_id, 0))
    n_moments = sum(map(len, sums.values()))
    metrics = _metrics(other, sums, cars) if len(sums) >= 2 else {}
    return Comparison(
        champion, other, len(sums), n_moments, sum(cars.values()), metrics, _conclusion(other, len(sums), metrics),
        sorted(waiting), sorted(learnt_from),
    )  # fmt: skip


def _scores(said: _Answer, drivers: list[str], position: NDArray[np.int64]) -> NDArray[np.float64]:
    at = {driver: row for row, driver in enumerate(said.driver_ids)}
    rows = [at[driver] for driver in drivers]
    place, probabilities = said.place[rows], said.probabilities[rows]
    return np.array(
        [
            exact_accuracy(place, position),
            mean_absolute_error(place, position),
            log_loss(probabilities, position),
            ranked_probability_score(probabilities, position),
        ]
    )


def _metrics(other: Arm, sums: Mapping[str, list[NDArray[np.float64]]], cars: Mapping[str, int]) -> dict[str, MetricGap]:
    races = sorted(sums)
    n_cars = np.array([cars[race] for race in races])
    # (races, 2, metrics): means over the moments of a race, times its cars
    by_race = np.stack([np.mean(sums[race], axis=0) for race in races]) * n_cars[:, None, None]
    found = {}
    for column, (name, higher) in enumerate(HIGHER_IS_BETTER.items()):
        champions, others = by_race[:, 0, column], by_race[:, 1, column]
        gap = difference(others, champions, n_cars)
        better = None
        if len(races) >= Limits().min_races and (gap.low > 0 or gap.high < 0):
            better = other.role if (gap.estimate > 0) is higher else CHAMPION
        one, two = (float(arm.sum() / n_cars.sum()) for arm in (champions, others))
        found[name] = MetricGap(one, two, gap, better)
    return found


def _conclusion(other: Arm, n_races: int, metrics: Mapping[str, MetricGap]) -> str:
    needed = Limits().min_races
    if n_races < needed:
        return f"no conclusion: {n_races} races with a known result, at least {needed} are needed"
    gap = metrics[DECIDING]
    interval = f"{DECIDING} {gap.gap.estimate:+.4f}, {gap.gap.confidence:.0%} interval {gap.gap.low:+.4f} to {gap.gap.high:+.4f}"
    if gap.better is None:
        return f"no difference shown on {n_races} races: {interval}"
    better = f"{other.role} version {other.version}" if gap.better == other.role else CHAMPION
    return f"the {better} is better on {n_races} races: {interval}"
