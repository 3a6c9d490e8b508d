"""How often a service may be asked, kept over processes and restarts in a small locked file."""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from feature_repo.errors import BadUsageError
from feature_repo.files import write_text
from pipelines.errors import SourcePausedError
from pipelines.ingest.web.answers import ask_again_at, from_then_on

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0  # a longer wait ends the run with an instant to go on from, rather than a process that seems to hang


@dataclass(frozen=True)
class Limits:
    """Requests a service allows.

    Attributes:
        per_second: requests per second, > 0; 0.5 is one every two seconds.
        per_hour: requests in any 3600 s, or None where there is no such limit.
        per_minute: requests in any 60 s, or None.
    """

    per_second: float
    per_hour: int | None = None
    per_minute: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that allow nothing.

        Raises:
            BadUsageError: a limit is not above 0.
        """
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise BadUsageError(f"limits: {name}: got {value}, expected a number above 0 or None")

    def windows(self) -> list[tuple[int, float]]:
        """(n, seconds): at most `n` requests in any half-open interval of `seconds`."""
        whole = max(1, math.floor(self.per_second))
        found = [(whole, whole / self.per_second)]
        if self.per_minute is not None:
            found.append((self.per_minute, 60.0))
        if self.per_hour is not None:
            found.append((self.per_hour, 3600.0))
        return found

    def text(self) -> str:
        """`4 requests/s, 500/h`."""
        parts = [f"{self.per_second:g} requests/s"]
        parts += [f"{self.per_minute}/min"] if self.per_minute is not None else []
        parts += [f"{self.per_hour}/h"] if self.per_hour is not None else []
        return ", ".join(parts)


def limits_folder(cache_dir: Path, service: str) -> Path:
    """Where the requests to a service are counted, for all sources of a home that ask it."""
    return cache_dir / "limits" / service


def earliest(instants: Sequence[float], windows: Sequence[tuple[int, float]]) -> float:
    """First instant (epoch s) at which one more request keeps every window; -inf where there is room at once.

    Args:
        instants: earlier requests, epoch s, ascending.
        windows: (n, seconds) as `Limits.windows` gives them.
    """
    return max((instants[-n] + seconds for n, seconds in windows if len(instants) >= n), default=-math.inf)


class Pace:
    """Lets requests pass at the rate a service allows, over all sources and processes that share one folder."""

    def __init__(
        self,
        service: str,
        folder: Path,
        limits: Limits,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep the instants of requests in `folder` (see `limits_folder`); `clock` gives epoch seconds."""
        self.service = service
        self.limits = limits
        self._file = folder / "requests.json"
        self._lock = folder / ".requests.lock"
        self._sleep, self._clock = sleep, clock
        folder.mkdir(parents=True, exist_ok=True)

    def wait_turn(self) -> None:
        """Return when a request may be sent, and count it as sent now.

        Raises:
            SourcePausedError: the turn is more than `PATIENCE_S` away; `retry_at` says when it is.
        """
        while (wait_s := self._take_turn()) > 0:
            if wait_s > PATIENCE_S:
                retry_at = ask_again_at(self._clock(), wait_s)
                raise SourcePausedError(
                    f"{self.service}: got its limit of requests used up ({self.limits.text()}), expected room for one more "
                    f"within {PATIENCE_S:.0f} s; run the same command again {from_then_on(retry_at)}, "
                    "what was fetched is kept",
                    retry_at,
                )
            if wait_s > 2:  # the pauses of a per-second limit are not news
                logger.info("request_waits service=%s seconds=%.0f reason=limit", self.service, wait_s)
            self._sleep(max(wait_s, 0.001))

    def _take_turn(self) -> float:
        """0 and the request is counted, or the seconds to wait before trying again."""
        windows = self.limits.windows()
        with FileLock(self._lock):  # never held while sleeping
            now = self._clock()
            stored = self._read()
            # An instant in the future means that the clock was set back; kept as now, it ages like any other.
            instants = sorted(min(instant, now) for instant in stored)
            first = earliest(instants, windows)
            if first <= now:
                longest = max(seconds for _, seconds in windows)
                instants = [*(instant for instant in instants if instant > now - longest), now]
            if instants != stored:
                write_text(self._file, json.dumps(instants) + "\n")
        return max(first - now, 0.0)

    def _read(self) -> list[float]:
        try:
            return [float(instant) for instant in json.loads(self._file.read_bytes())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            logger.warning("request_times_lost file=%s reason=%s", self._file, error)
            return []
