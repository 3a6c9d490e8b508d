"""A home whose champion a test moves as it likes, and how it waits for a service to notice."""

import time
from collections.abc import Callable
from pathlib import Path

from loop_home import copy_of
from loop_setup import Loop
from pydantic import SecretStr

from feature_repo.settings import Settings
from feature_repo.spine import load_entrants
from ml.registry import (
    CHALLENGER,
    CHAMPION,
    MODEL_NAME,
    ROLE_TAG,
    alias_version,
    get_version,
    move_champion,
    open_registry,
    registry_lock,
)

TOKEN = "kept in the environment"


def without_champion(loop: Loop, home: Path) -> Settings:
    """A copy of the loop's home without a champion, watched closely by who serves it."""
    settings = copy_of(loop, home)
    if alias_version(open_registry(settings), CHAMPION) is not None:
        crown(settings, None)
    return settings.model_copy(update={"model_poll_s": 0.05, "api_token": SecretStr(TOKEN), "challenger_share": 0.0})


def candidate(settings: Settings) -> str:
    """The version of the challenger."""
    version = alias_version(open_registry(settings), CHALLENGER)
    assert version is not None
    return version


def crown(settings: Settings, version: str | None) -> None:
    """Make a version champion, or nobody, whatever the gate says."""
    registry = open_registry(settings)
    with registry_lock(settings):
        reason = "rollback" if version is None else "promote"
        move_champion(registry, expected=alias_version(registry, CHAMPION), new=version, reason=reason)


def registered_again(settings: Settings, version: str) -> str:
    """The same model as another version."""
    registry = open_registry(settings)
    found = get_version(registry, version)
    made = registry.create_model_version(
        MODEL_NAME, source=found.source, run_id=found.run_id, tags={ROLE_TAG: "candidate"}, model_id=found.model_id
    )
    return str(made.version)


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return when something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


def races(settings: Settings) -> list[str]:
    """Every race of the home, oldest first."""
    return sorted(set(load_entrants(settings)["race_id"]))
