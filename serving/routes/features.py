"""POST /v1/features and GET /v1/catalogue."""

import itertools
import time
from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from serving.dashboard.catalogue import catalogue
from serving.feature_answer import features_at, features_now
from serving.reply import json_reply
from serving.schemas.answers import FeaturesResponse
from serving.schemas.board import CatalogueResponse
from serving.schemas.requests import FeaturesRequest
from serving.schemas.values import instant_of
from serving.state import ServingState, get_state

router = APIRouter(prefix="/v1", tags=["features"])


@router.post("/features", response_model=FeaturesResponse)
def features(asked: FeaturesRequest, state: Annotated[ServingState, Depends(get_state)]) -> Response:
    """Values with event time, age and status: from the online store, or with `as_of` as they were known then."""
    as_of = instant_of(asked.as_of)
    began = time.perf_counter()
    with state.lookups.entered():
        entered = time.perf_counter()
        if as_of is None:
            found = features_now(state.store, asked.service, asked.entity_rows)
        else:
            found = features_at(state.settings, state.store, asked.service, asked.entity_rows, as_of)
        looked_up = time.perf_counter()
        answer = json_reply(found.to_json())
    done = time.perf_counter()
    state.metrics.count_stages(
        {"wait": entered - began, "features": looked_up - entered, "json": done - looked_up, "total": done - began}
    )
    state.metrics.count_values(found.service, Counter(itertools.chain.from_iterable(found.status.values())))
    return answer


@router.get("/catalogue", response_model=CatalogueResponse)
def the_catalogue(state: Annotated[ServingState, Depends(get_state)]) -> Response:
    """Entities, feature views with their features and freshness, and feature services."""
    return json_reply(catalogue(state))
