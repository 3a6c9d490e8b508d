"""One race through FastF1: loaded whole, or said why not. FastF1 itself goes on with what it could get."""

from collections.abc import Callable, Sequence
from typing import Any

import fastf1
import pandas as pd
import requests
from fastf1.core import Session
from fastf1.exceptions import DataNotLoadedError, RateLimitExceededError

from pipelines.ingest.fastf1 import tables
from pipelines.ingest.fastf1.library import ACCOUNT, Watch, forget_session
from pipelines.ingest.jolpica.pages import Page, check_page, wrong

MIN_LAPS_SHARE = 0.9
OF_THE_ARCHIVE = ("laps", "weather", "track_status", "race_control")


class IncompleteError(Exception):
    """What FastF1 gave is not all there is: worth another try."""


def load_race(session: Session, watch: Watch, winner_laps: float, *, is_settled: bool) -> str | None:
    """Let FastF1 load a race; why it has to be left out, or None where it is all there.

    Timing that FastF1 finds incomplete, or cannot read, though every request was answered, is downloaded once more; then it stays
    in the cache as it is, and the race is left out by this run and by later ones.

    Args:
        session: the race.
        watch: what hears what FastF1 swallows.
        winner_laps: laps of the winner; with far fewer the timing is cut off (three of 71 are missing of one real race).
        is_settled: the race was so long ago that the archive will not change; of others nothing incomplete is kept.
    Raises:
        RateLimitExceededError: a limit was reached, whether FastF1 let that pass or not.
        IncompleteError, requests.RequestException: something could not be had now.
    """
    is_read = True
    try:
        session.load(laps=True, telemetry=False, weather=True, messages=True)
    except requests.RequestException:
        raise
    except (DataNotLoadedError, LookupError, TypeError, ValueError) as error:
        watch.swallowed.append(error)
        is_read = False
    reveal(watch)
    laps = session.laps["LapNumber"].max() if is_read and len(getattr(session, "_laps", ())) else 0
    if laps > 0 and not laps < MIN_LAPS_SHARE * winner_laps:
        return None
    status = next((status for path, status in watch.refused.items() if path.endswith("/TimingData.jsonStream")), None)
    if status is not None or not session.f1_api_support:
        forget_session(session.api_path)  # it may be published any time
        denied = f"; if the archive wants an account, set {' and '.join(ACCOUNT)}" if status in (401, 403) else ""
        return f"the live timing archive has no timing of it (HTTP {status}){denied}"
    reasons = "; ".join(f"{type(error).__name__}: {error}" for error in watch.swallowed[:3]) or "FastF1 gives no reason"
    found = f"timing of {laps:.0f} of {winner_laps:.0f} laps"
    is_new = any(path.startswith(session.api_path) for path in watch.downloaded)
    is_first = is_new and session.api_path not in watch.asked_again
    if is_first or not is_settled:
        forget_session(session.api_path)
    if is_first:
        watch.asked_again.add(session.api_path)
        raise IncompleteError(f"{found} ({reasons})")
    again = "to download it once more, ask for this round alone (--rounds) with --refresh" if is_settled else "try again tomorrow"
    return f"FastF1 finds {found} in the archive ({reasons}); {again}"


def reveal(watch: Watch) -> None:
    """Raise what FastF1 swallowed, where another try may do better.

    Raises:
        RateLimitExceededError, requests.RequestException: as it was raised.
        IncompleteError: a service failed.
    """
    if watch.limit is not None:
        raise watch.limit
    for error in watch.swallowed:
        if isinstance(error, RateLimitExceededError | requests.RequestException):
            raise error
    broken = next(((path, status) for path, status in watch.refused.items() if status >= 500), None)
    if broken is not None:
        raise IncompleteError(f"HTTP {broken[1]} for {broken[0]}")


def live_frames(session: Session, season: int, round_: int) -> dict[str, pd.DataFrame]:
    """Raw frames of a loaded race; a table that the archive does not have is left out."""

    def file(topic: str) -> str:
        return f"{session.api_path.strip('/')}/{topic}.jsonStream"

    frames = {"laps": tables.lap_rows(session.laps, season, round_, file("TimingData"))}
    if hasattr(session, "_weather_data"):
        frames["weather"] = tables.weather_rows(session.weather_data, season, round_, file("WeatherData"))
    if hasattr(session, "_track_status"):
        frames["track_status"] = tables.status_rows(session.track_status, season, round_, file("TrackStatus"))
    if hasattr(session, "_race_control_messages"):
        messages = session.race_control_messages
        frames["race_control"] = tables.control_rows(messages, season, round_, file("RaceControlMessages"))
    return frames


def read_page(answer: Any, name: str, endpoint: str, make: Callable[[Sequence[Page]], pd.DataFrame]) -> tuple[Page, pd.DataFrame]:
    """A raw answer of FastF1's `Ergast` as the page of Jolpica that it was, and what `make` reads from it.

    Args:
        answer: races with what surrounds them.
        name: path of the document, for messages and the quarantine.
        endpoint: a key of `jolpica.pages.ENDPOINTS`.
        make: page -> frame.
    Raises:
        SourceFormatError: it does not hold all rows; and as `make`.
    """
    said = {key: answer._response_headers.get(key) for key in ("limit", "offset", "total")}
    page = Page(name, name, {"MRData": {**said, "RaceTable": {"Races": list(answer)}}})
    rows, envelope = check_page(page, endpoint, 0)
    if len(rows) < envelope.total:
        raise wrong(page, "MRData.limit", str(envelope.limit), f"a page of all {envelope.total} rows")
    return page, make([page])


def schedule_of(season: int, watch: Watch) -> Any:
    """FastF1's schedule of a season without tests: its own, or else F1's or Jolpica's, whichever answers first.

    Raises:
        RateLimitExceededError: a limit was reached.
        ValueError: none answers.
    """
    events = fastf1.get_event_schedule(season, include_testing=False)
    if watch.limit is None:
        watch.forget()  # what failed has been made up for
    return events


def session_starts(events: Any) -> pd.DataFrame:
    """`season, round, race_start, qualifying_start` (UTC, null where not known) of FastF1's schedule."""

    def start(event: Any, name: str) -> pd.Timestamp:
        try:
            return pd.Timestamp(event.get_session_date(name, utc=True))
        except ValueError:  # the event has no such session
            return pd.NaT

    rows = [
        (float(events.year), float(event["RoundNumber"]), start(event, "Race"), start(event, "Qualifying"))
        for _, event in events.iterrows()
    ]
    frame = pd.DataFrame(rows, columns=["season", "round", "race_start", "qualifying_start"])
    for column in ("race_start", "qualifying_start"):
        frame[column] = pd.to_datetime(frame[column], utc=True).dt.as_unit("us")
    return frame
