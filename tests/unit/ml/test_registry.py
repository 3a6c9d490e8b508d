"""The champion's history without a registry: what a rollback goes back to, and who holds the lock."""

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.settings import Settings
from ml import registry
from ml.errors import RegistryBusyError
from ml.registry import ChampionMove, effective_history, registry_lock, standing_promotions


def history(*moves: tuple[str | None, str | None, str]) -> list[ChampionMove]:
    return [ChampionMove(new, previous, reason, "2024-05-26T13:00:00+00:00") for new, previous, reason in moves]


ONE, TWO = ("1", None, "promote"), ("2", "1", "promote")


@pytest.mark.parametrize(
    ("moves", "standing"),
    [
        ([], []),
        ([ONE], ["1"]),
        ([ONE, TWO], ["1", "2"]),
        ([ONE, TWO, ("1", "2", "rollback")], ["1"]),
        ([ONE, TWO, ("1", "2", "rollback"), (None, "1", "rollback")], []),
        ([ONE, TWO, ("1", "2", "rollback"), ("3", "1", "promote")], ["1", "3"]),
    ],
)
def test_each_rollback_takes_the_newest_standing_promotion_away(
    moves: list[tuple[str | None, str | None, str]], standing: list[str]
) -> None:
    assert [move.version for move in standing_promotions(history(*moves))] == standing


def test_a_move_that_never_took_effect_is_dropped() -> None:
    moves = history(ONE, TWO)
    assert effective_history(moves, "2") == moves
    assert effective_history(moves, "1") == moves[:1]
    assert effective_history([], None) == []
    gone = history(ONE, (None, "1", "rollback"))
    assert effective_history(gone, None) == gone
    assert effective_history(gone, "1") == gone[:1]


@given(st.lists(st.booleans(), max_size=20))
def test_champion_and_history_agree_after_any_number_of_moves(promotions: list[bool]) -> None:
    """Played with the rules of `rollback`: the newest standing promotion is always the champion."""
    moves: list[ChampionMove] = []
    champion: str | None = None
    for number, is_promotion in enumerate(promotions):
        standing = standing_promotions(moves)
        if is_promotion:
            new: str | None = str(number)
        elif standing:
            new = standing[-1].previous
        else:
            continue
        moves += history((new, champion, "promote" if is_promotion else "rollback"))
        champion = new
        assert effective_history(moves, champion) == moves
        standing = standing_promotions(moves)
        assert (standing[-1].version if standing else None) == champion


def test_a_move_is_json() -> None:
    (move,) = history(ONE)
    assert move.to_json() == {"version": "1", "previous": None, "reason": "promote", "at": "2024-05-26T13:00:00+00:00"}


def test_a_lock_that_is_held_for_too_long_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_LOCK_SECONDS", 0.05)
    settings.home.mkdir()
    with (
        FileLock(settings.home / "registry.lock"),
        pytest.raises(RegistryBusyError, match="to end, then try again"),
        registry_lock(settings),
    ):
        pass
    with registry_lock(settings):
        pass
