"""The image-artifact store: what is kept, what is refused, what damage is seen, and when a picture was knowable."""

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from feature_repo.errors import InvalidIdError
from ml.errors import DamagedPictureError, PictureConflictError, PictureNotFoundError, StoreBusyError
from ml.traces.axes import RaceAxes
from ml.traces.renderer import TraceRenderer
from ml.traces.store import ImageArtifactStore

EVENT = pd.Timestamp("2024-05-26T13:40:00Z")
AXES = RaceAxes(60, 195.0, 215.0)
RENDERER = TraceRenderer()
PNG, OTHER = (RENDERER.render([1, 2], [200.0, speed], AXES) for speed in (201.0, 202.0))


def put(store: ImageArtifactStore, driver_id: str = "norris", png: bytes = PNG, **changed: Any) -> Any:
    details = {
        "last_lap": 2,
        "event_timestamp": EVENT,
        "created_timestamp": EVENT,
        "source_hash": "s1",
        "renderer_version": "r1",
        "is_default": True,
    } | changed
    lap = details.pop("lap", 30)
    return store.put(details.pop("race_id", "2024_08"), driver_id, lap, png, **details)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageArtifactStore:
    if request.param == "folder":
        return ImageArtifactStore(tmp_path / "multimodal")
    url = f"memory://{tmp_path.name}/multimodal"
    fs = fsspec.filesystem("memory")
    if fs.exists(f"/{tmp_path.name}"):
        fs.rm(f"/{tmp_path.name}", recursive=True)
    return ImageArtifactStore(url)


def again(store: ImageArtifactStore) -> ImageArtifactStore:
    """The same place, opened anew."""
    return ImageArtifactStore(store._fs.unstrip_protocol(store._root))


def test_put_then_get_from_a_new_store(store: ImageArtifactStore) -> None:
    record = put(store)
    assert record.uri == "speed_traces/2024_08/norris.png"
    put(store, "norris", lap=12, is_default=False)
    other = again(store)
    assert other.get("2024_08", "norris") == PNG
    assert other.find("2024_08", "norris", 12).uri == "speed_traces/2024_08/lap_012/norris.png"
    assert other.find("2024_08", "norris", 30) == record
    assert other.find("2024_08", "norris") == record
    row = other.manifest().set_index("uri").loc[record.uri]
    assert (row["width"], row["height"], row["bytes"], row["lap"], row["last_lap"]) == (800, 600, len(PNG), 30, 2)
    assert (row["renderer_version"], row["source_hash"], row["revision"]) == ("r1", "s1", 1)
    assert str(other.manifest()["event_timestamp"].dtype) == "datetime64[us, UTC]"


def test_same_picture_again_changes_nothing(store: ImageArtifactStore) -> None:
    first = put(store)
    before = store._fs.cat_file(store._path("speed_traces/manifest.parquet"))
    assert put(again(store)) == first
    assert store._fs.cat_file(store._path("speed_traces/manifest.parquet")) == before


def test_other_bytes_for_the_same_source_are_refused(store: ImageArtifactStore) -> None:
    put(store)
    with pytest.raises(PictureConflictError, match=r"2024_08/norris\.png"):
        put(store, png=OTHER)
    assert again(store).get("2024_08", "norris") == PNG


@pytest.mark.parametrize("changed", [{"source_hash": "s2"}, {"renderer_version": "r2"}])
def test_a_new_source_or_renderer_replaces_and_is_recorded(store: ImageArtifactStore, changed: dict[str, str]) -> None:
    old = put(store)
    new = put(again(store), png=OTHER, **changed)
    assert (new.revision, new.previous_sha256) == (2, old.sha256)
    assert again(store).get("2024_08", "norris") == OTHER
    assert len(again(store).manifest()) == 1


@pytest.mark.parametrize("damage", [b"", PNG[:-7], PNG[:100] + b"\x00" + PNG[101:], OTHER, None])
def test_damage_is_seen_and_repaired_by_putting_again(store: ImageArtifactStore, damage: bytes | None) -> None:
    record = put(store)
    put(store, "piastri", OTHER)
    path = store._path(record.uri)
    if damage is None:
        store._fs.rm_file(path)
    else:
        store._fs.pipe_file(path, damage)
    with pytest.raises(DamagedPictureError, match=r"norris\.png"):
        store.get("2024_08", "norris")
    assert store.damaged() == [record.uri]
    assert put(store) == record
    assert store.damaged() == []
    assert store.get("2024_08", "norris") == PNG


def test_visible_only_from_the_later_of_event_and_created(store: ImageArtifactStore) -> None:
    late = EVENT + pd.Timedelta(hours=3)
    put(store)
    put(store, "piastri", created_timestamp=late)
    assert store.visible(EVENT - pd.Timedelta(microseconds=1)).empty
    assert store.visible(EVENT)["driver_id"].tolist() == ["norris"]
    assert store.visible(late)["driver_id"].tolist() == ["norris", "piastri"]
    assert store.get("2024_08", "piastri", as_of=late) == PNG
    with pytest.raises(PictureNotFoundError, match="known from"):
        store.get("2024_08", "piastri", as_of=EVENT)


def test_unknown_pictures_and_hostile_ids(store: ImageArtifactStore) -> None:
    with pytest.raises(PictureNotFoundError, match="default moment"):
        store.get("2024_08", "norris")
    put(store)
    with pytest.raises(PictureNotFoundError, match="lap 7"):
        store.get("2024_08", "norris", 7)
    for race_id, driver_id in (("../../etc", "norris"), ("2024_08", "../../etc/passwd"), ("2024_08", "a/b")):
        with pytest.raises(InvalidIdError):
            put(store, driver_id, race_id=race_id)
        with pytest.raises(InvalidIdError):
            store.get(race_id, driver_id)
    for lap in (0, -1, 1000, True):
        with pytest.raises(ValueError, match="lap"):
            put(store, lap=lap)
    with pytest.raises(DamagedPictureError, match="PNG"):
        put(store, png=b"not a picture")


def test_discarded_pictures_are_gone(store: ImageArtifactStore) -> None:
    record = put(store)
    put(store, "piastri")
    store.discard(record.uri)
    store.discard("speed_traces/2024_08/nobody.png")
    assert again(store).manifest()["driver_id"].tolist() == ["piastri"]
    assert not store._fs.exists(store._path(record.uri))


def test_what_a_killed_writer_journalled_is_kept(tmp_path: Path) -> None:
    clean = ImageArtifactStore(tmp_path / "clean")
    with clean.writing():
        put(clean)
        put(clean, "piastri", OTHER)
        clean.discard("speed_traces/2024_08/norris.png")
    killed = ImageArtifactStore(tmp_path / "killed")
    manager = killed.writing()
    manager.__enter__()
    put(killed)
    put(killed, "piastri", OTHER)
    killed.discard("speed_traces/2024_08/norris.png")
    journal = tmp_path / "killed" / "speed_traces" / "manifest.journal"
    journal.write_bytes(journal.read_bytes() + b'{"race_id": "2024_0')  # cut short in the middle of a line
    reader = ImageArtifactStore(tmp_path / "killed")
    pd.testing.assert_frame_equal(reader.manifest(), clean.manifest())
    del manager, killed  # the lock goes with the process; here with the object


def test_readers_see_what_another_store_wrote(tmp_path: Path) -> None:
    reader, writer = ImageArtifactStore(tmp_path), ImageArtifactStore(tmp_path)
    assert reader.manifest().empty
    with writer.writing():
        put(writer)
        assert reader.get("2024_08", "norris") == PNG
    put(writer, "piastri", OTHER)
    assert reader.get("2024_08", "piastri") == OTHER


def test_a_reader_never_misses_what_was_there_while_another_writes(tmp_path: Path) -> None:
    def write() -> None:
        writer = ImageArtifactStore(tmp_path)
        for car in range(60):
            put(writer, f"car_{car:02d}")

    reader, seen = ImageArtifactStore(tmp_path), [0]
    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        seen.append(len(reader.manifest()))
    thread.join()
    assert seen == sorted(seen)
    assert len(reader.manifest()) == 60


def test_a_second_writing_process_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom ml.traces.store import ImageArtifactStore\n"
        "with ImageArtifactStore(sys.argv[1]).writing():\n    sys.stdout.write('in\\n'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[4],
    )  # fmt: skip
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(StoreBusyError, match="another process"):
            put(ImageArtifactStore(tmp_path))
    finally:
        other.stdin.close()
        other.wait(30)
        other.stdout.close()
    put(ImageArtifactStore(tmp_path))
