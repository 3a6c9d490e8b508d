"""Whether a service can answer, part by part: features and registry, online store, model."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from serving.lookup import DEFAULT_SERVICE
from serving.online_lookup import lookup_rows, plan_of
from serving.races import newest_row_known
from serving.state import ServingState

_NOBODY = "nobody"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One part that answers need.

    Attributes:
        ok: it is there.
        detail: what there is, or what is wrong.
    """

    ok: bool
    detail: str


def parts_of(state: ServingState) -> dict[str, Part]:
    """`store` (feature tables and registry), `online_store` (by reading a key) and `model`, each asked now."""
    return {
        "store": _asked(lambda: _store(state)),
        "online_store": _asked(lambda: _online(state)),
        "model": _asked(lambda: _model(state)),
    }


def _asked(part: Callable[[], str]) -> Part:
    try:
        return Part(True, part())
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part is what is asked for
        logger.warning("part_not_ready %s", error)
        return Part(False, f"{type(error).__name__}: {error}")


def _store(state: ServingState) -> str:
    return f"features known up to {newest_row_known(state.settings).isoformat()}"


def _online(state: ServingState) -> str:
    keys = plan_of(state.store, DEFAULT_SERVICE).request_keys
    lookup_rows(state.store, DEFAULT_SERVICE, [dict.fromkeys(keys, _NOBODY)])
    return "answers"


def _model(state: ServingState) -> str:
    model = state.models.champion
    problems = "".join(f"; {problem}" for problem in state.models.problems.values())
    return f"{model.predictor.model.name} version {model.version} ({model.role}){problems}"
