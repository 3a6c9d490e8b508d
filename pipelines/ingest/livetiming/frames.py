"""What a recorded session says, through FastF1's own parsers: raw frames of laps, stints, weather, track status, race control."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fastf1._api as api
import pandas as pd
from fastf1.core import Session
from fastf1.events import Event
from fastf1.livetiming.data import LiveTimingData
from fastf1.req import Cache

from pipelines.errors import SourceFormatError
from pipelines.ingest.base import IngestReport
from pipelines.ingest.fastf1 import tables as fastf1_tables
from pipelines.ingest.livetiming.streams import Recording

_WEATHER_READINGS = ("AirTemp", "Humidity", "Pressure", "Rainfall", "TrackTemp", "WindDirection", "WindSpeed")
# topics that FastF1 would download if they were not given
_ASKED_FOR = (
    *("SessionInfo", "DriverList", "SessionStatus", "LapCount", "TrackStatus"),
    *("TimingData", "TimingAppData", "RaceControlMessages"),
)
_NO_SESSION = {"": "Practice", "Date": pd.NaT, "DateUtc": pd.NaT}


@dataclass(frozen=True)
class SessionInfo:
    """Which session was recorded: `name` such as `Race`, the `meeting`, and its scheduled start in UTC."""

    name: str
    meeting: str
    start: pd.Timestamp


def session_info(recording: Recording) -> SessionInfo | None:
    """What the topic `SessionInfo` says; None where it is missing or incomplete."""
    for _, content in recording.topics.get("SessionInfo", []):
        try:
            start = pd.Timestamp(content["StartDate"]) - pd.Timedelta(content["GmtOffset"])
            return SessionInfo(str(content["Name"]), str(content["Meeting"]["Name"]), start.tz_localize("UTC"))
        except (KeyError, TypeError, ValueError):
            continue
    return None


def driver_list(recording: Recording) -> dict[str, dict[str, Any]]:
    """Car number -> what the topic `DriverList` says of the driver (`Tla`, `RacingNumber`, ...)."""
    with Cache.disabled():
        drivers: dict[str, dict[str, Any]] = api.driver_info("", response=recording.topics.get("DriverList", []))
    return drivers


def raw_frames(
    recording: Recording, codes: Mapping[str, str], season: int, round_: int, report: IngestReport
) -> dict[str, pd.DataFrame]:
    """The raw frames of one recorded race: `laps, stints, weather, track_status, race_control`, each only where recorded.

    Raises:
        SourceFormatError: the lines of a topic are JSON, but not what the feed sends.
    """
    topics, files = recording.topics, recording.files
    frames: dict[str, pd.DataFrame] = {}
    with Cache.disabled():  # FastF1 would keep what it parses under the session's name and give that back next time
        laps = fastf1_laps(recording) if "TimingData" in topics else None
        if laps is not None:
            named = laps.assign(Driver=laps["DriverNumber"].map(codes).fillna(laps["DriverNumber"]))
            frames["laps"] = fastf1_tables.lap_rows(named, season, round_, files["TimingData"])
            frames["stints"] = fastf1_tables.stints_of_laps(frames["laps"])
        elif "TimingData" in topics:
            report.note(f"livetiming: {recording.name}: FastF1 finds no laps in TimingData")
        for topic, (table, make) in _MAKE.items():
            if topic in topics and table not in frames:
                try:
                    frames[table] = make(recording, codes, season, round_)
                except (AttributeError, LookupError, TypeError, ValueError) as error:
                    raise SourceFormatError(
                        files[topic], got=f"{type(error).__name__}: {error}", expected=f"{topic} as the live timing sends it"
                    ) from error
    return frames


def fastf1_laps(recording: Recording) -> pd.DataFrame | None:
    """`Session.laps` as FastF1 makes it of the recorded topics, without asking anybody; None where it cannot."""
    data = LiveTimingData()
    data.data, data._files_read = {**{topic: [] for topic in _ASKED_FOR}, **recording.topics}, True
    info = session_info(recording)
    day = (info.start if info is not None else pd.Timestamp(0, tz="UTC")).tz_localize(None)
    others = {f"Session{number}{end}": value for number in range(1, 5) for end, value in _NO_SESSION.items()}
    race = {"Session5": "Race", "Session5Date": day, "Session5DateUtc": day}
    what = {
        "EventName": info.meeting if info is not None else "",
        "EventDate": day,
        "EventFormat": "conventional",
        "RoundNumber": 0,
    }
    session = Session(Event({**what, **others, **race}, year=day.year), "Race", f1_api_support=True)
    session._ergast = _NoErgast()
    session.load(telemetry=False, weather=False, messages="RaceControlMessages" in recording.topics, livedata=data)
    return session.laps if hasattr(session, "_laps") else None


class _NoErgast:
    """In place of FastF1's connection to Jolpica: there are no results, and no first lap times."""

    def get_race_results(self, *_args: Any) -> None:
        """Nothing."""

    def get_lap_times(self, *_args: Any, **_kwargs: Any) -> Any:
        """An answer without rows."""
        return type("Nothing", (), {"description": pd.DataFrame()})


def _stints(recording: Recording, codes: Mapping[str, str], season: int, round_: int) -> pd.DataFrame:
    tyres = api.timing_app_data("", response=recording.topics["TimingAppData"])
    return fastf1_tables.stints_of_tyres(tyres, codes, season, round_, recording.files["TimingAppData"])


def _weather(recording: Recording, _codes: Mapping[str, str], season: int, round_: int) -> pd.DataFrame:
    rows = recording.rows["WeatherData"]
    entries = [
        [at, {name: value for name, value in content.items() if value is not None}]
        for at, content in recording.topics["WeatherData"]
    ]
    weather = pd.DataFrame(api.weather_data("", response=entries))
    for name in _WEATHER_READINGS:  # FastF1 puts 0 where there is none
        sent = pd.to_numeric(pd.Series([content.get(name) for _, content in entries]), errors="coerce")
        weather[name] = weather[name].astype(object).where(sent.notna(), None)
    return fastf1_tables.weather_rows(weather, season, round_, recording.files["WeatherData"], rows)


def _status(recording: Recording, _codes: Mapping[str, str], season: int, round_: int) -> pd.DataFrame:
    status = pd.DataFrame(api.track_status_data("", response=recording.topics["TrackStatus"]))
    return fastf1_tables.status_rows(status, season, round_, recording.files["TrackStatus"], recording.rows["TrackStatus"])


def _control(recording: Recording, _codes: Mapping[str, str], season: int, round_: int) -> pd.DataFrame:
    """Race control messages with the session clock: the time they carry, moved by the median of (line - message).

    `known` is when the line came: a message that was late was not read at the time it carries.
    """
    response, rows, lines = [], [], []
    for (at, content), row in zip(recording.topics["RaceControlMessages"], recording.rows["RaceControlMessages"], strict=True):
        found = content.get("Messages", [])
        for message in found.values() if isinstance(found, dict) else found:
            response.append([at, {"Messages": [{"Utc": "", **message} if isinstance(message, dict) else {"Utc": ""}]}])
            rows.append(row)
            lines.append(at)
    messages = pd.DataFrame(api.race_control_messages("", response=response))
    sent = pd.to_datetime(messages["Time"], utc=True)
    came = pd.to_timedelta(pd.Series(lines, index=messages.index))
    messages["SessionTime"] = sent - ((sent - came).median() if len(messages) else pd.NaT)
    control = fastf1_tables.control_rows(messages, season, round_, recording.files["RaceControlMessages"], rows)
    return control.assign(known=came.dt.total_seconds().to_numpy())


_MAKE = {
    "TimingAppData": ("stints", _stints),
    "WeatherData": ("weather", _weather),
    "TrackStatus": ("track_status", _status),
    "RaceControlMessages": ("race_control", _control),
}
