"""GET /v1/races, /v1/races/{race_id}, one lap of a race, and its speed traces."""

import functools
import hashlib
import logging
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Response

from feature_repo.errors import UnknownEntityError
from feature_repo.spine import Moment, refuse_future
from ml.errors import DamagedPictureError, PictureNotFoundError
from ml.traces.store import ImageArtifactStore
from serving.dashboard.moment_answer import moment_answer
from serving.dashboard.moment_view import moment_view
from serving.dashboard.race_data import race_data
from serving.dashboard.seasons import race_list
from serving.race_record import race_record
from serving.reply import json_reply
from serving.schemas.answers import RaceResponse, RacesResponse
from serving.schemas.moment import MomentResponse
from serving.schemas.values import DriverId, InstantText, LapNumber, RaceId, ReplayRun, instant_of
from serving.state import ServingState, get_state

router = APIRouter(prefix="/v1", tags=["races"])
State = Annotated[ServingState, Depends(get_state)]
RacePath = Annotated[RaceId, Path()]
CACHE_CONTROL = "private, max-age=0, must-revalidate"

logger = logging.getLogger(__name__)


@router.get("/races", response_model=RacesResponse)
def races(state: State, season: Annotated[int | None, Query(ge=1950, le=2099, description="Only this one.")] = None) -> Response:
    """The races of the home, newest season first, with the winner once known."""
    return json_reply({"races": [race for race in race_list(state.settings) if season is None or race["season"] == season]})


@router.get("/races/{race_id}", response_model=RaceResponse)
def race(race_id: RacePath, state: State, as_of: Annotated[InstantText | None, Query()] = None) -> Response:
    """One race as known now, or at an instant: entrants, the leader's laps, the result once it is known."""
    instant = instant_of(as_of)
    if instant is not None:
        refuse_future(instant)
    return json_reply(race_record(state.settings, race_id, instant))


@router.get("/races/{race_id}/moment", response_model=MomentResponse)
def moment(
    race_id: RacePath,
    state: State,
    lap: Annotated[LapNumber | None, Query()] = None,
    replay: Annotated[ReplayRun | None, Query()] = None,
) -> Response:
    """One race at one lap, as its page shows it: predicted order, running order, tyres, weather, and the result once known.

    A lap beyond the last that the leader has completed is that one.
    """
    return json_reply(moment_answer(moment_view(state, race_data(state.settings, race_id), lap, replay=replay)))


@router.get(
    "/races/{race_id}/drivers/{driver_id}/trace.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, 304: {"description": "The picture is the one already held."}},
)
def trace(
    race_id: RacePath,
    driver_id: Annotated[DriverId, Path()],
    state: State,
    lap: Annotated[
        int | None, Query(ge=1, le=200, description="When the leader completes it; default the home's default moment.")
    ] = None,
    if_none_match: Annotated[str | None, Header(max_length=4096)] = None,
) -> Response:
    """The speed trace of a car up to a lap of the leader, as the model sees it.

    The picture stored for that lap, whose ETag is the hash in the manifest; where none is stored, or its file is damaged, it is
    drawn from the laps that were known then, pixel for pixel what would be stored.
    """
    stored = _store(str(state.settings.multimodal_dir))
    try:
        record = stored.find(race_id, driver_id, lap)
        if _matches(if_none_match, _etag(record.sha256)):
            return Response(status_code=304, headers=_headers(record.sha256))
        png, sha256 = stored.load(record), record.sha256
    except (PictureNotFoundError, DamagedPictureError) as error:
        if isinstance(error, DamagedPictureError):
            logger.warning("picture_damaged %s; drawn anew", error)
        png = _drawn(state, race_id, driver_id, lap)
        sha256 = hashlib.sha256(png).hexdigest()
        if _matches(if_none_match, _etag(sha256)):
            return Response(status_code=304, headers=_headers(sha256))
    return Response(png, media_type="image/png", headers=_headers(sha256))


@functools.lru_cache(maxsize=4)
def _store(root: str) -> ImageArtifactStore:
    return ImageArtifactStore(root)


def _drawn(state: ServingState, race_id: str, driver_id: str, lap: int | None) -> bytes:
    moment = Moment.parse(state.settings.moment) if lap is None else Moment("lap", lap=lap)
    png = state.trace_png(race_id, driver_id, moment)
    if png is None:
        raise UnknownEntityError(f"{race_id} {driver_id}: has no lap to draw at {moment}; ask for a later lap")
    return png


def _etag(sha256: str) -> str:
    return f'"{sha256}"'


def _headers(sha256: str) -> dict[str, str]:
    return {"ETag": _etag(sha256), "Cache-Control": CACHE_CONTROL}


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    held = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return etag in held or "*" in held
