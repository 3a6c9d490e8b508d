"""The record of a replay: whole events only, whoever reads it while it is written, and a new replay is noticed."""

import json
import os
from pathlib import Path

import pytest

from feature_repo.errors import InvalidIdError
from feature_repo.settings import Settings
from serving.replay_file import SILENCE_S, ReplayReader, ReplayWriter, replay_path


def lap(number: int) -> dict[str, object]:
    return {"event": "lap", "lap": number, "next_in_s": 1.5}


def test_events_are_numbered_and_read_once(tmp_path: Path) -> None:
    path = tmp_path / "replay" / "2024_08.jsonl"
    reader = ReplayReader(path)
    assert (reader.news(), reader.state, reader.last) == ([], "none", None)
    with ReplayWriter(path, "a" * 12, {"event": "start"}) as record:
        record.append(lap(0))
        events = reader.news()
        assert [(event.id, event.kind) for event in events] == [("a" * 12 + "-0", "start"), ("a" * 12 + "-1", "lap")]
        assert reader.news() == []
        assert reader.state == "running"
        record.append({"event": "end"})
    assert [event.kind for event in reader.news()] == ["end"]
    assert reader.state == "ended"
    assert json.loads(events[1].line)["lap"] == 0
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "2024_08.jsonl"
    with ReplayWriter(path, "b" * 12, {"event": "start"}) as record:
        record.append(lap(0))
    whole = path.read_bytes()
    for cut in (10, whole.index(b"\n") + 5, len(whole) - 1):
        half = tmp_path / f"{cut}.jsonl"
        half.write_bytes(whole[:cut])
        reader = ReplayReader(half)
        before = reader.news()
        with half.open("ab") as file:
            file.write(whole[cut:])
        assert [event.kind for event in before + reader.news()] == ["start", "lap"]


def test_a_new_replay_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "2024_08.jsonl"
    reader = ReplayReader(path)
    with ReplayWriter(path, "c" * 12, {"event": "start"}) as record:
        record.append(lap(0))
        record.append(lap(1))
    assert len(reader.news()) == 3
    with ReplayWriter(path, "d" * 12, {"event": "start"}):
        assert [event.id for event in reader.news()] == ["d" * 12 + "-0"]
        assert reader.state == "running"


def test_a_replay_that_falls_silent_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "2024_08.jsonl"
    with ReplayWriter(path, "e" * 12, {"event": "start"}) as record:
        record.append(lap(0))
    reader = ReplayReader(path)
    reader.news()
    written = json.loads(path.read_text().splitlines()[-1])["written_at"]
    for late, state in ((1.4 + SILENCE_S, "running"), (1.6 + SILENCE_S, "interrupted")):
        monkeypatch.setattr("serving.replay_file.time.time", lambda late=late: written + late)
        assert reader.state == state


def test_a_replay_that_ends_in_an_error_says_so(tmp_path: Path) -> None:
    path = tmp_path / "2024_08.jsonl"
    with pytest.raises(KeyboardInterrupt), ReplayWriter(path, "a" * 12, {"event": "start"}):
        raise KeyboardInterrupt
    reader = ReplayReader(path)
    assert [event.kind for event in reader.news()] == ["start", "interrupted"]
    assert reader.state == "interrupted"


def test_a_writer_goes_on_where_the_disk_took_part_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "2024_08.jsonl"
    write = os.write
    with ReplayWriter(path, "f" * 12, {"event": "start"}) as record:
        monkeypatch.setattr("serving.replay_file.os.write", lambda file, data: write(file, data[:7]))
        record.append(lap(3))
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["start", "lap"]


@pytest.mark.parametrize("race_id", ["../../etc/passwd", "2024_8", "", "2024_08/..", "2024_08.jsonl"])
def test_hostile_races_become_no_path(tmp_path: Path, race_id: str) -> None:
    with pytest.raises(InvalidIdError):
        replay_path(Settings(home=tmp_path), race_id)
