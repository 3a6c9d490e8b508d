"""One client for every JSON service: within its limits, patient with its faults, and never asking twice for what it gave.

What can go wrong ends in one of two errors. `SourcePausedError`: the service cannot answer now (limit used up, overloaded, not
reachable), the same command later goes on from what was kept. `SourceFormatError`: it answered with something else than it
documents, and asking again did not help.
"""

import logging
import math
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import urlencode

import httpx
import pandas as pd

from feature_repo.errors import BadUsageError
from pipelines.errors import SourceFormatError, SourcePausedError
from pipelines.ingest.web.answers import (
    MalformedError,
    TroubleError,
    ask_again_at,
    from_then_on,
    instant,
    malformed,
    parse_json,
    refusal,
    retry_after_s,
)
from pipelines.ingest.web.cache import ResponseCache, Stored
from pipelines.ingest.web.limits import PATIENCE_S, Limits, Pace, limits_folder
from pipelines.ingest.web.refresh import Refresh

__all__ = ["Fetched", "Limits", "PoliteClient"]

logger = logging.getLogger(__name__)

FIRST_BACK_OFF_S = 1.0  # doubled with every further try, up to
LONGEST_BACK_OFF_S = 30.0
MAX_BODY_BYTES = 64 * 1024 * 1024
MALFORMED_RETRIES = 2  # a cut or foreign body is sometimes a hiccup; the third one is the service's answer
_NO_PARAMS: Mapping[str, str | int] = MappingProxyType({})


@dataclass(frozen=True)
class Fetched:
    """A service's answer.

    Attributes:
        data: the parsed JSON; None where the service answered 404 and the caller accepts that.
        url: what was asked, with its parameters.
        fetched_at: UTC instant at which the body was downloaded or last confirmed to be current.
        from_cache: the body was on disk already.
        last_modified: UTC instant the service gave as the body's last change, or None.
    """

    data: Any
    url: str
    fetched_at: pd.Timestamp
    from_cache: bool
    last_modified: pd.Timestamp | None


class PoliteClient:
    """Asks one service for JSON. For one thread at a time; any number of sources and processes may share `cache_dir`.

    Attributes:
        requests: requests sent, each try and each redirect counted.
        hits: answers given from disk without a request.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        cache_dir: Path,
        limits: Limits,
        *,
        refresh: bool = False,
        timeout_s: float = 30,
        max_retries: int = 4,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the service and how to treat it; nothing is asked yet, and what killed runs left half written is removed.

        Args:
            name: the service in messages and folders, such as `jolpica`.
            base_url: http(s) URL that paths are appended to.
            cache_dir: the home's cache: responses are kept in `<name>/`, request times in `limits/<name>/`.
            limits: how often it may be asked.
            refresh: confirm or download again what was kept before, each URL once: a refresh that was stopped goes on where
                it was, until `finish_refresh` is called.
            timeout_s: seconds for connecting, for each piece of an answer, and for an answer from first to last byte.
            max_retries: further tries after the first one.
            sleep: called with seconds (real waiting is left out in tests).
            clock: epoch seconds.

        Raises:
            BadUsageError: `base_url` is no http(s) URL.
        """
        if not _is_web_url(base_url):
            raise BadUsageError(f"{name}: got URL {base_url!r}, expected http://... or https://...; check the setting {name}_url")
        self.name = name
        self.requests = 0
        self.hits = 0
        self._base_url = base_url.rstrip("/")
        self._cache = ResponseCache(cache_dir / name)
        self._pace = Pace(name, limits_folder(cache_dir, name), limits, sleep=sleep, clock=clock)
        self._refresh = Refresh(self._cache.folder, clock) if refresh else None
        self._timeout_s, self._max_retries = timeout_s, max_retries
        self._sleep, self._clock = sleep, clock
        self._deadline = 0.0
        self._http = httpx.Client(
            headers={"User-Agent": f"pitwall/{version('pitwall')}", "Accept": "application/json"},
            timeout=timeout_s,
            follow_redirects=True,
            verify=_ssl_context(),
            event_hooks={"request": [self._before_request]},  # called for each redirect too
        )

    def __enter__(self) -> Self:
        """The client itself; its connections are closed on leaving."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def finish_refresh(self) -> None:
        """All that the caller wanted was asked for again; without `refresh` nothing happens."""
        if self._refresh is not None:
            self._refresh.finish()

    def url(self, path: str, params: Mapping[str, str | int] = _NO_PARAMS) -> str:
        """What is asked for `path` below the base URL, parameters in the order of their names."""
        query = urlencode(sorted((name, str(value)) for name, value in params.items()))
        return f"{self._base_url}/{path.lstrip('/')}" + (f"?{query}" if query else "")

    def kept_file(self, path: str, params: Mapping[str, str | int] = _NO_PARAMS) -> Path:
        """Where the answer to `get_json` of the same path and parameters is kept."""
        return self._cache.file(self.url(path), params)

    def get_json(
        self,
        path: str,
        params: Mapping[str, str | int] = _NO_PARAMS,
        *,
        max_age_s: float | None = None,
        absent_for_s: float | None = None,
        validate: Callable[[Any], object] | None = None,
    ) -> Fetched:
        """The JSON at `path` below the base URL, from disk where it was kept.

        Args:
            path: relative path, without query.
            params: query parameters; their order does not matter.
            max_age_s: a kept answer older than this is confirmed by the service or downloaded again; None: good for ever.
            absent_for_s: 404 with a JSON body means "there is none": `data` is None, and that is believed for so many seconds,
                because a 404 may also be a fault or come from a wrong address; 0: not kept at all. None: 404 is an error.
            validate: raises ValueError, LookupError, TypeError or AttributeError where the parsed JSON is not what was asked
                for; such a body is asked for again and never kept.

        Raises:
            SourcePausedError: the limit is used up for long, the service did not answer however often it was asked, or it
                answers only to accounts now (401).
            SourceFormatError: another status 4xx, or a body that is no JSON, too large or refused by `validate`.
        """
        address, url = self.url(path), self.url(path, params)
        kept = self._usable(self._cache.read(address, params), url, absent_for_s, validate)
        if kept is not None and self._is_fresh(kept[0], max_age_s):
            self.hits += 1
            return _fetched(*kept, url, from_cache=True)
        answer, data = self._ask(url, kept[0] if kept else None, absent_for_s is not None, validate)
        had_rows = kept is not None and kept[0].status == 200  # a 404 in their place may pass
        if answer.status == 200 or (absent_for_s and not had_rows):
            self._cache.write(address, params, answer)
        return _fetched(answer, data, url, from_cache=kept is not None and answer.body is kept[0].body)

    def _usable(
        self, kept: Stored | None, url: str, absent_for_s: float | None, validate: Callable[[Any], object] | None
    ) -> tuple[Stored, Any] | None:
        """`kept` and its value, unless it is not what this caller takes for an answer."""
        if kept is None or (kept.status == 404 and not (absent_for_s and self._age_s(kept) <= absent_for_s)):
            return None
        try:
            return kept, _parse(kept, url, validate)
        except MalformedError as error:
            logger.warning("cached_response_refused url=%s reason=%s next=download_again", url, error)
            return None

    def _is_fresh(self, kept: Stored, max_age_s: float | None) -> bool:
        if self._refresh is not None and kept.fetched_at_s < self._refresh.since_s:
            return False
        return max_age_s is None or self._age_s(kept) <= max_age_s

    def _age_s(self, kept: Stored) -> float:
        """Seconds since it was fetched; infinite where that is still to come, as after a clock was set back."""
        age_s = self._clock() - kept.fetched_at_s
        return age_s if age_s >= 0 else math.inf

    def _ask(
        self, url: str, kept: Stored | None, accept_404: bool, validate: Callable[[Any], object] | None
    ) -> tuple[Stored, Any]:
        """The answer and its value, after as many tries as are allowed."""
        malformed = 0
        for attempt in range(1, self._max_retries + 2):
            try:
                answer = self._ask_once(url, kept, accept_404)
                return answer, _parse(answer, url, validate)
            except TroubleError as error:
                if attempt > self._max_retries or (error.retry_after_s or 0) > PATIENCE_S:
                    self._give_up(url, error, attempt)
                self._back_off(url, attempt, error, error.retry_after_s)
            except MalformedError as error:
                malformed += 1
                if malformed > MALFORMED_RETRIES or attempt > self._max_retries:
                    raise error.error from error
                self._back_off(url, attempt, error, None)
        raise AssertionError("the last attempt returns or raises")

    def _ask_once(self, url: str, kept: Stored | None, accept_404: bool) -> Stored:
        try:
            with self._http.stream("GET", url, headers=kept.conditions() if kept else {}) as response:
                status = response.status_code
                if status == 429 or status >= 500:
                    raise TroubleError(
                        f"HTTP {status} {response.reason_phrase}",
                        retry_after_s(response.headers.get("retry-after"), self._clock()),
                    )
                body = self._body(response, url)
        except (httpx.DecodingError, httpx.TooManyRedirects) as error:
            raise malformed(url, got=f"{type(error).__name__} ({error})", expected="an answer that can be read") from error
        except httpx.TransportError as error:
            raise TroubleError(f"{type(error).__name__} ({error or 'no more is known'})") from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        if status == 304 and kept is not None:
            confirmed = {name: headers[name] for name in ("etag", "last-modified") if name in headers}
            return replace(kept, headers=kept.headers | confirmed, fetched_at_s=self._clock())
        if status not in (200, 404) or (status == 404 and not accept_404):
            raise refusal(self.name, url, status, body, self._clock())
        return Stored(status, headers, body, self._clock())

    def _before_request(self, request: httpx.Request) -> None:
        self._pace.wait_turn()
        self.requests += 1
        self._deadline = time.monotonic() + self._timeout_s
        logger.debug("request_sent service=%s url=%s", self.name, request.url)

    def _body(self, response: httpx.Response, url: str) -> bytes:
        """All of the body, unless it is too slow or too large."""
        parts: list[bytes] = []
        size = 0
        for part in response.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise SourceFormatError(
                    url,
                    got=f"a body of more than {MAX_BODY_BYTES // 2**20} MiB",
                    expected="less",
                    next_step="check the service's URL; what was fetched is kept",
                )
            if time.monotonic() > self._deadline:
                raise TroubleError(f"a body still incomplete after {self._timeout_s:g} s")
        return b"".join(parts)

    def _back_off(self, url: str, attempt: int, error: Exception, retry_after_s: float | None) -> None:
        """Sleep before the next try: as long as the service says, and at least a doubling, jittered time."""
        own_s = min(FIRST_BACK_OFF_S * 2 ** (attempt - 1), LONGEST_BACK_OFF_S) * random.uniform(0.5, 1.0)
        wait_s = max(own_s, retry_after_s or 0.0)
        logger.warning("request_failed url=%s attempt=%d reason=%s retry_in_s=%.1f", url, attempt, error, wait_s)
        self._sleep(wait_s)

    def _give_up(self, url: str, error: TroubleError, attempts: int) -> NoReturn:
        tries = "once" if attempts == 1 else f"{attempts} times"
        retry_at = ask_again_at(self._clock(), error.retry_after_s)
        raise SourcePausedError(
            f"{self.name}: {url}: got {error} (asked {tries}), expected an answer; run the same command again "
            f"{from_then_on(retry_at)}, what was fetched is kept",
            retry_at,
        ) from error


def _fetched(stored: Stored, data: Any, url: str, *, from_cache: bool) -> Fetched:
    return Fetched(
        data=data if stored.status == 200 else None,
        url=url,
        fetched_at=pd.Timestamp(stored.fetched_at_s, unit="s", tz="UTC"),
        from_cache=from_cache,
        last_modified=instant(stored.headers.get("last-modified")),
    )


def _parse(stored: Stored, url: str, validate: Callable[[Any], object] | None) -> Any:
    return parse_json(stored.headers.get("content-type"), stored.body, url, validate if stored.status == 200 else None)


@cache
def _ssl_context() -> ssl.SSLContext:
    """Read once: loading the certificates takes longer than most answers."""
    return httpx.create_ssl_context()


def _is_web_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in {"http", "https"} and bool(url.host)
