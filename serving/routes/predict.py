"""POST /v1/predict."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from serving.reply import json_reply
from serving.schemas.answers import PredictResponse
from serving.schemas.requests import PredictRequest
from serving.state import ServingState, get_state

router = APIRouter(prefix="/v1", tags=["predictions"])


@router.post("/predict", response_model=PredictResponse)
def predict(asked: PredictRequest, state: Annotated[ServingState, Depends(get_state)]) -> Response:
    """The finishing order of a race as it could be foretold at a moment of it."""
    answer = state.answer(asked.race_id, asked.moment(), live=asked.live, drivers=asked.drivers)
    return json_reply(answer.to_json())
