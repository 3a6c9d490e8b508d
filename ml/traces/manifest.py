"""The manifest's rows: what is recorded about each picture, where it lies, and the two forms it is written in."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from feature_repo.ids import validate_driver_id, validate_race_id
from feature_repo.visibility import CREATED, EVENT, as_utc
from ml.errors import InvalidLapDataError
from ml.traces.laps import MAX_LAP_NUMBER

FOLDER = "speed_traces"


@dataclass(frozen=True)
class PictureRecord:
    """One line of the manifest.

    Attributes:
        race_id: the race.
        driver_id: the driver.
        lap: the leader's lap of the moment.
        last_lap: this car's last lap drawn.
        is_default: it is the race's picture for the default moment.
        event_timestamp: end of the last lap drawn, UTC.
        created_timestamp: when that was known, UTC.
        uri: place below the store's root.
        sha256: of the PNG.
        bytes: size of the PNG.
        width: pixels.
        height: pixels.
        renderer_version: what drew it.
        source_hash: hash of everything that was drawn.
        revision: 1, and one more each time a picture drawn differently or from other laps took its place.
        previous_sha256: of the picture it replaced, or "".
    """

    race_id: str
    driver_id: str
    lap: int
    last_lap: int
    is_default: bool
    event_timestamp: pd.Timestamp
    created_timestamp: pd.Timestamp
    uri: str
    sha256: str
    bytes: int
    width: int
    height: int
    renderer_version: str
    source_hash: str
    revision: int
    previous_sha256: str


COLUMNS = tuple(field.name for field in dataclasses.fields(PictureRecord))


def picture_uri(race_id: str, driver_id: str, lap: int | None = None) -> str:
    """Where a picture lies below the root; `lap` None is the default moment.

    Raises:
        InvalidIdError: an id is not of the form of ids.
        InvalidLapDataError: a lap outside 1..999.
    """
    name = f"{validate_driver_id(driver_id)}.png"
    if lap is None:
        return f"{FOLDER}/{validate_race_id(race_id)}/{name}"
    return f"{FOLDER}/{validate_race_id(race_id)}/lap_{checked_lap(lap):03d}/{name}"


def checked_lap(lap: int) -> int:
    """`lap` as an int if it is a lap number; InvalidLapDataError otherwise."""
    if isinstance(lap, bool) or int(lap) != lap or not 1 <= lap <= MAX_LAP_NUMBER:
        raise InvalidLapDataError(
            f"lap: got {lap!r}, expected a whole number 1..{MAX_LAP_NUMBER}; before lap 1 there is nothing to draw"
        )
    return int(lap)


def to_line(record: PictureRecord) -> str:
    """A record as one line of the journal."""
    entry = {name: getattr(record, name) for name in COLUMNS}
    return json.dumps(entry | {EVENT: record.event_timestamp.isoformat(), CREATED: record.created_timestamp.isoformat()})


def to_record(entry: dict[str, Any]) -> PictureRecord:
    """A record from the JSON object of its line."""
    return PictureRecord(**(entry | {EVENT: as_utc(entry[EVENT]), CREATED: as_utc(entry[CREATED])}))


def whole_lines(content: bytes) -> list[bytes]:
    """Lines that end; a process killed while appending leaves a last one that does not, and its picture is rendered again."""
    return content[: content.rfind(b"\n") + 1].splitlines()


def to_frame(records: dict[str, PictureRecord]) -> pd.DataFrame:
    """Records as a frame with `COLUMNS`, sorted by race, lap, driver; equal records give equal frames."""
    # Not dataclasses.asdict: it copies every value deeply, 50 us a record.
    frame = pd.DataFrame([[getattr(record, name) for name in COLUMNS] for record in records.values()], columns=list(COLUMNS))
    integers = dict.fromkeys(("lap", "last_lap", "bytes", "width", "height", "revision"), "int64")
    times = dict.fromkeys((EVENT, CREATED), "datetime64[us, UTC]")
    frame = frame.astype({**integers, **times, "is_default": "bool"})
    return frame.sort_values(["race_id", "lap", "driver_id", "uri"], kind="stable", ignore_index=True)


def from_frame(frame: pd.DataFrame) -> dict[str, PictureRecord]:
    """Records by uri from the frame of a manifest."""
    columns = [
        frame[name].dt.tz_convert("UTC").tolist() if name in (EVENT, CREATED) else frame[name].tolist() for name in COLUMNS
    ]
    return {record.uri: record for record in (PictureRecord(*row) for row in zip(*columns, strict=True))}
