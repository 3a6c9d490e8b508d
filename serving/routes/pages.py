"""The pages: seasons, one race, models, features, the API; server-rendered, each with its JSON twin in the footer."""

import hashlib
import logging
from collections.abc import Callable, Coroutine
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any, Literal

import jinja2
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from feature_repo.errors import PitwallError, UnknownEntityError
from serving.dashboard import charts, formats
from serving.dashboard.api_page import api_page
from serving.dashboard.catalogue import catalogue
from serving.dashboard.model_board import model_board
from serving.dashboard.moment_view import driver_features, moment_view
from serving.dashboard.race_data import race_data
from serving.dashboard.seasons import race_list
from serving.http_errors import RETRY_AFTER_S, malformed_message, status_of
from serving.schemas.values import DriverId, LapNumber, ReplayRun
from serving.state import ServingState, get_state

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_TITLES = {404: "There is nothing here", 422: "That question is malformed", 503: "Not available right now"}
_STATIC = {"style.css": "text/css; charset=utf-8", "app.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}

State = Annotated[ServingState, Depends(get_state)]


logger = logging.getLogger(__name__)


class _PageRoute(APIRoute):
    """A route whose errors are pages too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_or_say(request: Request) -> Response:
            try:
                return await answer(request)
            except PitwallError as error:
                status = status_of(error)
                if status == 500:
                    logger.exception("page_failed path=%s", request.url.path)
                page = error_page(status, type(error).__name__, str(error))
                if status == 503:
                    page.headers["Retry-After"] = str(RETRY_AFTER_S)
                return page
            except RequestValidationError as error:
                return error_page(422, "RequestValidationError", malformed_message(error))

        return answer_or_say


router = APIRouter(route_class=_PageRoute, include_in_schema=False, default_response_class=HTMLResponse)


@router.get("/")
def all_seasons(state: State) -> HTMLResponse:
    """Every race of the home, newest season first."""
    return _seasons_page(race_list(state.settings), None)


@router.get("/seasons/{season}")
def one_season(season: Annotated[int, Path(ge=1950, le=2099)], state: State) -> HTMLResponse:
    """The races of one season."""
    races = race_list(state.settings)
    known = sorted({race["season"] for race in races})
    if season not in known:
        raise UnknownEntityError(f"season: got {season}, expected one of {', '.join(map(str, known)) or '(none ingested)'}")
    return _seasons_page(races, season)


@router.get("/races/{race_id}")
def race_page(
    race_id: Annotated[str, Path(max_length=64)],
    state: State,
    lap: Annotated[LapNumber | None, Query()] = None,
    replay: Annotated[ReplayRun | None, Query()] = None,
    driver: Annotated[DriverId | None, Query(description="Whose features are shown.")] = None,
    fragment: Annotated[Literal["moment", "driver"] | None, Query(description="Only this part of the page.")] = None,
) -> HTMLResponse:
    """One race at one lap: predicted order, actual order once known, tyres, weather, and one driver's features."""
    race = race_data(state.settings, race_id)
    view = moment_view(state, race, lap, replay=replay)
    features = {} if driver is None else driver_features(state, view, driver)
    shown: dict[str, Any] = {"race": race, "view": view, "selected": driver, "features": features, "page": "races"}
    if fragment == "driver":
        row = next((row for row in view.rows if row.driver_id == driver), None)
        if row is None:
            raise UnknownEntityError(f"driver: got {driver}, expected a driver of {race_id}; the fragment needs ?driver=")
        return _page("_driver.html", row=row, **shown)
    if fragment == "moment":
        return _page("_moment.html", **shown)
    races = race_list(state.settings)
    at = next(number for number, one in enumerate(races) if one["race_id"] == race_id)
    season = [one for one in races if one["season"] == races[at]["season"]]
    here = season.index(races[at])
    return _page(
        "race.html",
        before=season[here - 1] if here else None,
        after=season[here + 1] if here + 1 < len(season) else None,
        **shown,
    )


@router.get("/models")
def models_page(request: Request, state: State) -> HTMLResponse:
    """Versions, the gate's verdict on each, and rolling back."""
    may_change = state.settings.api_token is not None
    return _page("models.html", board=model_board(state), may_change=may_change, origin=_origin(request), page="models")


@router.get("/features")
def features_page(state: State) -> HTMLResponse:
    """The feature catalogue with freshness and histograms."""
    return _page("features.html", catalogue=catalogue(state), page="features")


@router.get("/docs")
def docs_page(request: Request) -> HTMLResponse:
    """The HTTP API: every endpoint with its parameters, bodies and examples."""
    return _page("docs.html", api=api_page(request.app.openapi()), page="api")


@router.get("/static/{name}")
def static(name: str, request: Request) -> Response:
    """A file of the pages; kept by browsers under the hash in its address."""
    if name not in _STATIC:
        return error_page(404, "NotFound", f"static file: got {name!r}, expected {', '.join(_STATIC)}")
    content, tag = _static_file(name)
    headers = {"ETag": f'"{tag}"', "Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=_STATIC[name], headers=headers)


def _seasons_page(races: list[dict[str, Any]], season: int | None) -> HTMLResponse:
    by_season: dict[int, list[dict[str, Any]]] = {}
    for race in races:
        by_season.setdefault(race["season"], []).append(race)
    shown = by_season if season is None else {season: by_season[season]}
    return _page("seasons.html", seasons=list(by_season), by_season=shown, season=season, page="races")


def _origin(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}"


def error_page(status: int, kind: str, message: str) -> HTMLResponse:
    """An error as a page."""
    return _page("error.html", status, title=_TITLES.get(status, "That did not work"), kind=kind, message=message)


def _page(template: str, status: int = 200, **shown: Any) -> HTMLResponse:
    text = _templates().get_template(template).render(**{"page": "", **shown})
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(text, status_code=status, headers=headers)


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("serving.dashboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["charts"] = charts
    environment.globals["static"] = lambda name: f"/static/{name}?v={_static_file(name)[1]}"
    for name in ("percent", "ordinal", "age", "when", "day", "celsius", "value", "name_of", "breakable", "coded"):
        environment.filters[name] = getattr(formats, name)
    return environment


@lru_cache(maxsize=8)
def _static_file(name: str) -> tuple[bytes, str]:
    """A file of the package and the start of its hash."""
    content = files("serving.dashboard").joinpath("static", name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]
