"""Whether a service can answer, part by part: feature tables, Feast registry, online store, model."""

import logging
from concurrent.futures import Future, wait
from dataclasses import dataclass

from feature_repo.store import get_service
from serving.bounded import Bounded
from serving.lookup import DEFAULT_SERVICE
from serving.online_lookup import lookup_rows, plan_of
from serving.races import newest_row_known
from serving.state import ServingState

PATIENCE_S = 2.0
"""How long all parts together are waited for; one that has not answered by then is not ready."""

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


class Readiness:
    """Asks the parts of a service: `store` (feature tables), `registry` (Feast's), `online_store` (by reading a key) and `model`.

    Args:
        state: of the service.
    """

    def __init__(self, state: ServingState) -> None:
        self._parts = {
            "store": Bounded(lambda: _store(state), "pitwall-ready-store"),
            "registry": Bounded(lambda: _registry(state), "pitwall-ready-registry"),
            "online_store": Bounded(lambda: _online(state), "pitwall-ready-online"),
            "model": Bounded(lambda: _model(state), "pitwall-ready-model"),
        }

    def parts(self, patience_s: float = PATIENCE_S) -> dict[str, Part]:
        """Each part, asked now and all at once; waits no longer than `patience_s`."""
        asked = {name: part.begin() for name, part in self._parts.items()}
        wait(asked.values(), timeout=patience_s)
        return {name: _said(answer, patience_s) for name, answer in asked.items()}


def _said(answer: "Future[str]", patience_s: float) -> Part:
    if not answer.done():
        logger.warning("part_not_ready no answer within %g s", patience_s)
        return Part(False, f"TimeoutError: no answer within {patience_s:g} s")
    try:
        return Part(True, answer.result())
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part is what is asked for
        logger.warning("part_not_ready %s", error)
        return Part(False, f"{type(error).__name__}: {error}")


def _store(state: ServingState) -> str:
    return f"features known up to {newest_row_known(state.settings).isoformat()}"


def _registry(state: ServingState) -> str:
    get_service(state.store, DEFAULT_SERVICE)
    return "answers"


def _online(state: ServingState) -> str:
    keys = plan_of(state.store, DEFAULT_SERVICE).request_keys
    lookup_rows(state.store, DEFAULT_SERVICE, [dict.fromkeys(keys, _NOBODY)])
    return "answers"


def _model(state: ServingState) -> str:
    model = state.models.champion
    problems = "".join(f"; {problem}" for problem in state.models.problems.values())
    return f"{model.predictor.model.name} version {model.version} ({model.role}){problems}"
