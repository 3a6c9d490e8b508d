"""FastF1 as this program uses it: its addresses, cache, limits and log, set for one `with` block and put back afterwards.

FastF1 keeps all of that in module globals, and turns most failures of a download into a log line and missing data. Both end
here: what it swallowed is collected, and a service that says "too many requests" always surfaces.
"""

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fastf1._api
import fastf1.ergast.interface
import fastf1.ergast.legacy
import fastf1.events
import fastf1.req
import pandas as pd
import requests
from fastf1.exceptions import RateLimitExceededError
from fastf1.internals.f1account import LIVETIMING_URL, token_manager
from requests.adapters import HTTPAdapter

from feature_repo.settings import Settings
from pipelines.errors import SourcePausedError
from pipelines.ingest.catalogue import limits
from pipelines.ingest.web.answers import ask_again_at, retry_after_s
from pipelines.ingest.web.limits import Limits, Pace, limits_folder
from pipelines.ingest.web.refresh import Refresh

logger = logging.getLogger(__name__)

KEPT = "run the same command again, what was fetched is kept"
ACCOUNT = ("F1_USERNAME", "F1_PASSWORD")  # of the Formula 1 account that the archive may want, as FastF1 reads them
TIMEOUT_S = 30.0
_HOURLY = {"jolpi": 200, "": 500}  # FastF1's own hard limits, here kept over processes and restarts


class LimitReachedError(RateLimitExceededError):
    """The limit of a service; of the kind that FastF1 lets pass.

    Attributes:
        retry_at: UTC instant from which to ask again.
    """

    def __init__(self, message: str, retry_at: pd.Timestamp) -> None:
        super().__init__(message)
        self.retry_at = retry_at


@dataclass
class Watch:
    """What FastF1 did not say aloud since `forget` was last called.

    Attributes:
        swallowed: errors that it turned into a log line.
        refused: URL path -> last HTTP status of 400 or more, unless it was answered later.
        limit: the limit that was reached, if any.
        heard: URLs that were answered, from the cache or not.
        downloaded: URL paths that a service answered anew, neither from the cache nor by confirming what is there.
        asked_again: paths of sessions whose incomplete timing was dropped to download it once more; never forgotten.
    """

    swallowed: list[BaseException] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    limit: LimitReachedError | None = None
    heard: list[str] = field(default_factory=list)
    downloaded: list[str] = field(default_factory=list)
    asked_again: set[str] = field(default_factory=set)

    def forget(self) -> None:
        """Begin anew."""
        self.swallowed.clear()
        self.refused.clear()
        self.heard.clear()
        self.downloaded.clear()
        self.limit = None

    def hear(self, response: Any, *_args: Any, **_kwargs: Any) -> None:
        """Take note of a response; called by the `requests` session.

        Raises:
            LimitReachedError: the service says 429.
        """
        self.heard.append(response.url)
        path = urlsplit(response.url).path
        if response.status_code != 304 and not getattr(response, "from_cache", False):
            self.downloaded.append(path)
        self.refused.pop(path, None)
        if response.status_code >= 400:
            self.refused[path] = response.status_code
        if response.status_code == 429:
            now_s = time.time()
            retry_at = ask_again_at(now_s, retry_after_s(response.headers.get("Retry-After"), now_s))
            self.limit = LimitReachedError(f"{response.url}: got HTTP 429", retry_at)
            raise self.limit


class _ToOurLog(logging.Handler):
    """FastF1's log lines at our levels; errors that come with them are kept in `watch`."""

    def __init__(self, watch: Watch, expected: Sequence[str]) -> None:
        super().__init__(logging.DEBUG)
        self.watch, self.expected = watch, tuple(expected)

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.watch.swallowed.append(record.exc_info[1])
        is_news = record.levelno >= logging.WARNING and not record.getMessage().startswith(self.expected)
        level = logging.WARNING if is_news else logging.DEBUG
        logger.log(level, "fastf1_says module=%s message=%r", record.module, record.getMessage())


class _OverProcesses:
    """A limiter in FastF1's own list of them that remembers what other processes asked."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace

    def limit(self) -> None:
        """Wait for a turn.

        Raises:
            LimitReachedError: it is more than a minute away.
        """
        try:
            self.pace.wait_turn()
        except SourcePausedError as error:
            raise LimitReachedError(str(error), error.retry_at or ask_again_at(time.time())) from error


class _Requests:
    """Requests of FastF1's session, sent as it does not: never waiting for ever, none after a limit was reached."""

    def __init__(self, http: Any, watch: Watch, refresh: Refresh | None) -> None:
        self.plain: Callable[..., Any] = http.request
        self.http, self.watch, self.refresh = http, watch, refresh

    def request(self, method: str, url: str, **options: Any) -> Any:
        """As `requests.Session.request`.

        Raises:
            LimitReachedError: the limit that was reached before, in case FastF1 swallowed it.
        """
        if self.watch.limit is not None:
            raise self.watch.limit
        is_old = self.refresh is not None and self._kept_since_s(method, url, options) < self.refresh.since_s
        return self.plain(method, url, **{"timeout": TIMEOUT_S, "force_refresh": is_old, **options})

    def _kept_since_s(self, method: str, url: str, options: dict[str, Any]) -> float:
        """When the answer in the cache was fetched, epoch seconds; that of none is never too old."""
        asked = requests.Request(method, url, params=options.get("params"), headers=options.get("headers"))
        kept = self.http.cache.get_response(self.http.cache.create_key(self.http.prepare_request(asked)))
        return math.inf if kept is None else kept.created_at.timestamp()


@contextmanager
def fastf1_log(expected: Sequence[str] = ()) -> Iterator[Watch]:
    """FastF1's log goes to ours instead of the terminal; yields what collects the errors it swallows.

    Args:
        expected: beginnings of warnings that are no news.
    """
    root, watch = logging.getLogger("fastf1"), Watch()
    before = (list(root.handlers), root.propagate)
    root.handlers[:], root.propagate = [_ToOurLog(watch, expected)], False
    try:
        yield watch
    finally:
        root.handlers[:], root.propagate = before


@contextmanager
def fastf1_library(settings: Settings, *, refresh: bool = False) -> Iterator[Watch]:
    """FastF1 asks the services of `settings` and keeps their answers below `settings.cache_dir / "fastf1"`.

    Not for two threads at once: everything it sets is global to the process. FastF1 confirms an answer of Jolpica that is older
    than twelve hours; timing data it never asks for again.

    Args:
        settings: the addresses, and where the cache is.
        refresh: confirm or download again whatever was kept.
    """
    folder = settings.cache_dir / "fastf1"
    folder.mkdir(parents=True, exist_ok=True)
    cache, session = fastf1.req.Cache, fastf1.req._SessionWithRateLimiting
    timing, ergast, legacy, events = fastf1._api, fastf1.ergast.interface, fastf1.ergast.legacy, fastf1.events
    places: list[tuple[Any, str]] = [
        *((timing, name) for name in ("base_url", "base_url_mirror")),
        (ergast, "BASE_URL"),
        (legacy, "base_url"),
        (events, "_SCHEDULE_BASE_URL"),
        *((cache, name) for name in ("_CACHE_DIR", "_requests_session_cached", "_IGNORE_VERSION", "_FORCE_RENEW")),
        (session, "_RATE_LIMITS"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name in places]
    with fastf1_log() as watch:
        try:
            url = settings.livetiming_url.rstrip("/")
            if url != timing.base_url:  # the mirror is one of the official archive
                timing.base_url = timing.base_url_mirror = url
            ergast.BASE_URL = legacy.base_url = settings.jolpica_url.rstrip("/")
            events._SCHEDULE_BASE_URL = settings.schedule_url.rstrip("/") + "/"
            cache.configure(cache_dir=str(folder))
            cache._FORCE_RENEW = refresh
            http = cache._requests_session_cached
            http.settings.allowable_codes = (200, 404)  # a topic that was not published then is not looked for each time
            http.hooks["response"].append(watch.hear)
            if not _is_signed_in():  # FastF1 would ask at the terminal, before each request
                http.mount(LIVETIMING_URL, HTTPAdapter())
            started = Refresh(folder, time.time) if refresh else None
            http.request = _Requests(http, watch, started).request
            session._RATE_LIMITS = {
                pattern: [*map(_OverProcesses, _paces(pattern.pattern, settings.cache_dir)), *limiters]
                for pattern, limiters in session._RATE_LIMITS.items()
            }
            yield watch
            if started is not None:
                started.finish()
        finally:
            opened = cache._requests_session_cached
            for owner, name, value in before:
                setattr(owner, name, value)
            if opened is not None and opened is not cache._requests_session_cached:
                opened.close()


def _is_signed_in() -> bool:
    """FastF1 can send a Formula 1 account's token to the archive without asking anybody for a password."""
    token = token_manager.get_stored()
    return all(os.environ.get(name) for name in ACCOUNT) or (token is not None and token.is_valid())


def when_again(error: RateLimitExceededError) -> pd.Timestamp:
    """UTC instant at which the window that `error` is about opens again."""
    if isinstance(error, LimitReachedError):
        return error.retry_at
    for limiters in fastf1.req._SessionWithRateLimiting._RATE_LIMITS.values():
        for limiter in limiters:
            if getattr(limiter, "_info", None) == str(error) and len(limiter._timestamps) > 1:
                # the next call pushes out the oldest of the instants that it counts
                return pd.Timestamp(limiter._timestamps[1] + limiter._interval, unit="s", tz="UTC").ceil("s")
    return ask_again_at(time.time())


def forget_answers(urls: Sequence[str]) -> None:
    """Drop answers from the cache, because they are not what they should be."""
    fastf1.req.Cache._requests_session_cached.cache.delete(urls=list(urls))


def forget_session(api_path: str) -> None:
    """Drop what was kept of one session, because it is not what it should be."""
    cache = fastf1.req.Cache
    shutil.rmtree(Path(cache._CACHE_DIR) / api_path[8:], ignore_errors=True)  # as FastF1 places it: without /static/
    for page in fastf1._api.pages.values():
        for base in (fastf1._api.base_url, fastf1._api.base_url_mirror):
            cache.delete_response(base + api_path + page)


def _paces(pattern: str, cache_dir: Path) -> list[Pace]:
    """What FastF1 asks the addresses of a pattern; and what all sources together ask the service behind them."""
    name = next(name for name in _HOURLY if name in pattern)
    own = "fastf1_jolpica" if name else "fastf1"
    paces = [Pace(own, limits_folder(cache_dir, own), Limits(per_second=4, per_hour=_HOURLY[name]))]
    return [*paces, Pace("jolpica", limits_folder(cache_dir, "jolpica"), limits("jolpica"))] if name else paces
