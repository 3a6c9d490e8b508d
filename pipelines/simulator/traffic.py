"""Who is ahead at the end of a lap: passes that succeed, and the cars that stay stuck behind."""

import numpy as np
from numpy.typing import NDArray

PASS_SCALE = 0.42
"""Spread of the pace advantage needed for a pass, relative to the circuit's `passing_pct` (logistic scale)."""

FOLLOW_GAP_S = 0.45
"""Closest that two cars cross the line under green, s."""

QUEUE_GAP_S = 1.0
"""Spacing behind the safety car and at a restart, s."""

OUT = 1e8
"""Clock of a car that is out of the race, s: it sorts behind every running car."""


def pass_threshold(passing_s: NDArray[np.float64], luck: NDArray[np.float64], can_pass: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pace advantage each car needs in this lap to pass the car ahead, s.

    Args:
        passing_s: (R,) advantage at which half the attempts succeed, s a lap.
        luck: (R, D) uniform numbers in (0, 1), one an attacker.
        can_pass: (R,) bool, passing is allowed in this lap.
    Returns:
        (R, D) seconds; infinite where passing is not allowed.
    """
    logistic = np.log(luck / (1.0 - luck))
    need = passing_s[:, None] * (1.0 + PASS_SCALE * logistic)
    return np.where(can_pass[:, None], np.maximum(need, 0.02), np.inf)


def settle_order(
    *,
    slots: NDArray[np.int64],
    clock: NDArray[np.float64],
    lap_s: NDArray[np.float64],
    need_s: NDArray[np.float64],
    is_free: NDArray[np.bool_],
    gap_s: NDArray[np.float64],
    line_s: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Running order and clocks at the end of a lap.

    Neighbours change places (odd-even transposition, so that a car may gain several places) when the car behind would be ahead on
    the clock and either has the advantage it needs, or one of the two is in the pit lane or out. Whoever is stuck crosses the
    line `gap_s` behind the car ahead.

    Args:
        slots: (R, D) drivers by running order at the start of the lap.
        clock: (R, D) by driver: session clock at the end of the lap on a free track, s.
        lap_s: (R, D) by driver: the lap on a free track, s; decides the advantage.
        need_s: (R, D) by driver: advantage needed to pass, s.
        is_free: (R, D) by driver: the car passes and is passed freely (pit lane, out of the race).
        gap_s: (R, D) by slot: closest spacing to the car ahead at the line, s.
        line_s: (R,) earliest clock at which the first car may cross (behind a safety car), -inf otherwise.
    Returns:
        (R, D) drivers by running order, and (R, D) clocks by driver; clocks strictly increase along the order.
    """
    _, drivers = slots.shape
    # Rows of `by_slot`: driver, clock, lap, need, free; all by running order.
    by_slot = np.stack(
        [slots.astype(np.float64)]
        + [np.take_along_axis(v.astype(np.float64), slots, axis=1) for v in (clock, lap_s, need_s, is_free)]
    )
    idle = 0
    for sweep in range(2 * drivers):
        first = sweep % 2
        ahead = by_slot[:, :, first : drivers - 1 : 2]
        behind = by_slot[:, :, first + 1 : drivers : 2]
        swap = (behind[1] < ahead[1]) & ((ahead[2] - behind[2] > behind[3]) | (ahead[4] + behind[4] > 0.0))
        if not swap.any():
            idle += 1
            if idle == 2:
                break
            continue
        idle = 0
        moved_up, moved_down = np.where(swap, behind, ahead), np.where(swap, ahead, behind)
        by_slot[:, :, first : drivers - 1 : 2] = moved_up
        by_slot[:, :, first + 1 : drivers : 2] = moved_down
    order = by_slot[0].astype(np.int64)
    spacing = np.cumsum(gap_s, axis=1)
    held = np.maximum.accumulate(np.maximum(by_slot[1], line_s[:, None]) - spacing, axis=1) + spacing
    settled = np.empty_like(clock)
    np.put_along_axis(settled, order, held, axis=1)
    return order, settled


def gap_behind(slots: NDArray[np.int64], clock: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, D) by driver: lead over the next car, s (infinite for the last)."""
    ordered = np.take_along_axis(clock, slots, axis=1)
    gaps = np.full_like(ordered, np.inf)
    gaps[:, :-1] = np.diff(ordered, axis=1)
    result = np.empty_like(gaps)
    np.put_along_axis(result, slots, gaps, axis=1)
    return result


def gap_ahead(slots: NDArray[np.int64], clock: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, D) by driver: distance to the car ahead, s (infinite for the leader)."""
    ordered = np.take_along_axis(clock, slots, axis=1)
    gaps = np.full_like(ordered, np.inf)
    gaps[:, 1:] = np.diff(ordered, axis=1)
    result = np.empty_like(gaps)
    np.put_along_axis(result, slots, gaps, axis=1)
    return result
