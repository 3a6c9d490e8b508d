"""GET /v1/models and /v1/models/{name}/decisions; POST promote and rollback, with the service's token."""

import hmac
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Depends, Path, Query, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from feature_repo.errors import UnknownEntityError
from ml.registry import MODEL_NAME, VERDICT_TAG, ChampionMove, promote_version, versions_of
from ml.registry import rollback as roll_back
from serving.dashboard.model_board import gate_record, model_board
from serving.errors import TokenNotConfiguredError, WrongTokenError
from serving.reply import json_reply
from serving.schemas.answers import ErrorBody
from serving.schemas.board import DecisionsResponse, ModelsResponse, MoveResponse
from serving.schemas.requests import PromoteRequest, RollbackRequest
from serving.state import ServingState, get_state

router = APIRouter(prefix="/v1", tags=["models"])
State = Annotated[ServingState, Depends(get_state)]
_UNAUTHORIZED: dict[int | str, dict[str, Any]] = {401: {"model": ErrorBody, "description": "No token, or a wrong one."}}
_BEARER = HTTPBearer(auto_error=False, description="The service's PITWALL_API_TOKEN.")
ModelName = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,100}$", examples=[MODEL_NAME])]


def allowed(state: State, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
    """Let a change through only with the token of the service.

    Raises:
        TokenNotConfiguredError: the service has no token, so nobody may change anything.
        WrongTokenError: another token, or none.
    """
    token = state.settings.api_token
    if token is None or not token.get_secret_value():
        raise TokenNotConfiguredError("changes over HTTP are not configured: this service was started without PITWALL_API_TOKEN")
    secret = "" if given is None else given.credentials
    if not hmac.compare_digest(secret.encode(), token.get_secret_value().encode()):
        raise WrongTokenError("Authorization: got no token or a wrong one; nothing was changed")


@router.get("/models", response_model=ModelsResponse)
def models(state: State) -> Response:
    """Every registered version with its verdict, which of them answer, and what is wrong with those that should and do not.

    Where the registry does not answer, `registry_problem` says so, and what is loaded is told all the same.
    """
    manager = state.models
    loaded = [model for model in (manager.answering, manager.baseline, manager.challenger) if model is not None]
    return json_reply(
        {
            **model_board(state),
            "loaded": {
                model.role: {
                    "version": model.version,
                    "model": model.predictor.model.name,
                    "loaded_at": pd.Timestamp(model.loaded_at, unit="s", tz="UTC").isoformat(timespec="seconds"),
                }
                for model in reversed(loaded)
            },
            "problems": manager.problems,
            "challenger_share": state.settings.challenger_share,
            "challenger_shadow": state.settings.challenger_shadow,
        }
    )


@router.get("/models/{name}/decisions", response_model=DecisionsResponse)
def decisions(
    name: ModelName,
    state: State,
    inputs: Annotated[bool, Query(description="With the evidence that was decided on (70 kB a version).")] = False,
) -> Response:
    """The gate's stored verdicts, newest version first: reasons, every check with its limit, and the gain with its interval."""
    _known(name)
    client = state.models.client()
    records = [(found, gate_record(state, client, found)) for found in versions_of(client)]
    told = [
        {
            "version": str(found.version),
            "verdict": found.tags[VERDICT_TAG],
            "inputs_sha256": record["decision"].get("inputs_sha256"),
            "decision": record["decision"],
            "inputs": record["inputs"] if inputs else None,
        }
        for found, record in records
        if record is not None
    ]
    return json_reply({"name": name, "decisions": told})


@router.post("/models/{name}/promote", response_model=MoveResponse, dependencies=[Depends(allowed)], responses=_UNAUTHORIZED)
def promote(name: ModelName, asked: PromoteRequest, state: State) -> Response:
    """Make a version champion that the gate let pass against the champion of now; the service then answers with it."""
    _known(name)
    return _moved(state, promote_version(state.settings, state.models.client(), asked.version))


@router.post("/models/{name}/rollback", response_model=MoveResponse, dependencies=[Depends(allowed)], responses=_UNAUTHORIZED)
def rollback(name: ModelName, state: State, asked: RollbackRequest | None = None) -> Response:
    """Give the champion's place back to the version it was taken from; with `version`, only if that is the champion still."""
    _known(name)
    expected = None if asked is None else asked.version
    return _moved(state, roll_back(state.settings, state.models.client(), expected=expected))


def _moved(state: ServingState, move: ChampionMove) -> Response:
    state.models.refresh()
    model = state.models.answering
    serving: dict[str, Any] = {"problems": state.models.problems}
    if model is not None:
        serving |= {"version": model.version, "role": model.role}
    return json_reply({**move.to_json(), "serving": serving})


def _known(name: str) -> None:
    if name != MODEL_NAME:
        raise UnknownEntityError(f"model: got {name!r}, expected {MODEL_NAME}, the only one there is")
