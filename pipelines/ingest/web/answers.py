"""What a web service's answer says: its JSON, its dates, and the two ways in which it can be no answer."""

import json
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import pandas as pd

from pipelines.errors import SourceFormatError, SourcePausedError

LONGEST_RETRY_AFTER_S = 7 * 86_400.0  # whatever a service says, it may be asked again after a week
ASK_AGAIN_S = 3600.0  # where nobody says when to ask again: the hour that limits count


class TroubleError(Exception):
    """The service could not answer this time, so it is worth another try.

    Attributes:
        retry_after_s: seconds the service itself asks to wait, or None where it does not say.
    """

    def __init__(self, happened: str, retry_after_s: float | None = None) -> None:
        super().__init__(happened)
        self.retry_after_s = retry_after_s


class MalformedError(Exception):
    """The answer is not what was asked for; that is worth another try or two.

    Attributes:
        error: what to raise in the end.
    """

    def __init__(self, error: SourceFormatError) -> None:
        super().__init__(f"got {error.got}, expected {error.expected}")
        self.error = error


def malformed(url: str, *, got: str, expected: str) -> MalformedError:
    """The error of an answer from `url` that is something else than expected."""
    next_step = "run the same command again, what was fetched is kept"
    return MalformedError(SourceFormatError(url, got=got, expected=expected, next_step=next_step))


def parse_json(content_type: str | None, body: bytes, url: str, validate: Callable[[Any], object] | None = None) -> Any:
    """The JSON value of a body.

    Raises:
        MalformedError: it came as something else, is no whole JSON document, or `validate` raised ValueError, LookupError,
            TypeError or AttributeError about it.
    """
    if content_type is not None and "json" not in content_type.lower():
        raise malformed(url, got=f"{content_type}: {beginning(body)}", expected="application/json")
    try:
        data = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(url, got=f"{beginning(body)} ({error})", expected="one whole JSON document") from error
    if validate is not None:
        try:
            validate(data)
        except SourceFormatError as error:
            raise MalformedError(error) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            expected = f"the documented fields ({type(error).__name__}: {error})"
            raise malformed(url, got=beginning(body), expected=expected) from error
    return data


def refusal(service: str, url: str, status: int, body: bytes, now_s: float) -> SourceFormatError | SourcePausedError:
    """The error of a status that says no, whoever asks again at once (`now_s`: epoch seconds).

    401 is no mistake of the request: nobody signs in here, and OpenF1 answers so, about old races too, while a session is under
    way. Nobody says how long that is.
    """
    got = f"HTTP {status} {beginning(body)}"
    if status == 401:
        retry_at = ask_again_at(now_s)
        return SourcePausedError(
            f"{service}: {url}: got {got}, expected HTTP 200, as it answers without an account while no session is under way; "
            f"run the same command again after the session, say {from_then_on(retry_at)}, what was fetched is kept",
            retry_at,
        )
    next_step = "check the season, the rounds and the service's URL; what was fetched is kept"
    return SourceFormatError(url, got=got, expected="HTTP 200", next_step=next_step)


def beginning(body: bytes) -> str:
    """The first 80 characters, quoted."""
    text = body[:400].decode("utf-8", errors="replace")
    return repr(text[:80]) + ("..." if len(text) > 80 else "")


def instant(text: str | None) -> pd.Timestamp | None:
    """An HTTP date as a UTC instant; None where it is absent or no date."""
    try:
        found = pd.Timestamp(parsedate_to_datetime(text)) if text else None
    except (ValueError, TypeError):
        return None
    if found is None:
        return None
    return found.tz_localize("UTC") if found.tzinfo is None else found.tz_convert("UTC")


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """Seconds from `now_s` (epoch) that a Retry-After header asks to wait, 0 to a week; None where it says nothing."""
    text = (header or "").strip()
    if text.isdecimal():
        return min(float(text), LONGEST_RETRY_AFTER_S)
    until = instant(text)
    return None if until is None else min(max(until.timestamp() - now_s, 0.0), LONGEST_RETRY_AFTER_S)


def ask_again_at(now_s: float, wait_s: float | None = None) -> pd.Timestamp:
    """The UTC instant, a whole second, `wait_s` seconds after `now_s` (epoch); None: nobody said, so in an hour."""
    return pd.Timestamp(now_s + (ASK_AGAIN_S if wait_s is None else wait_s), unit="s", tz="UTC").ceil("s")


def from_then_on(instant: pd.Timestamp) -> str:
    """`from 2030-03-17 17:47:41 UTC on`."""
    return f"from {instant:%Y-%m-%d %H:%M:%S} UTC on"


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
