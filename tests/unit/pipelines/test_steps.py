"""A step is skipped exactly when everything it depends on is as it was recorded."""

import json
from pathlib import Path

import pytest

from feature_repo.settings import Settings
from pipelines import steps
from pipelines.steps import code_hash, record, recorded


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of three files, and no hash remembered of another one."""
    folder = tmp_path / "repository"
    for name, text in {"ml/a.py": "a = 1\n", "ml/deep/b.py": "b = 2\n", "ml/c.yaml": "c: 3\n", "ml/note.txt": "x\n"}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(steps, "_REPOSITORY", folder)
    code_hash.cache_clear()
    return folder


@pytest.mark.parametrize("changed", ["ml/a.py", "ml/deep/b.py", "ml/c.yaml", "ml/new.py"])
def test_code_and_configurations_are_part_of_the_hash(repository: Path, changed: str) -> None:
    before = code_hash("ml")
    (repository / changed).write_text("changed = True\n", encoding="utf-8")
    code_hash.cache_clear()
    assert code_hash("ml") != before


def test_other_files_are_not(repository: Path) -> None:
    before = code_hash("ml")
    (repository / "ml/note.txt").write_text("changed", encoding="utf-8")
    code_hash.cache_clear()
    assert code_hash("ml") == before
    assert code_hash("ml/a.py") != code_hash("ml/deep/b.py")


def test_a_place_without_code_is_an_error(repository: Path) -> None:
    (repository / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing to hash at empty"):
        code_hash("empty")
    with pytest.raises(FileNotFoundError):
        code_hash("ml/gone.py")


def test_a_result_is_found_again_for_the_same_dependencies_only(settings: Settings) -> None:
    assert recorded(settings, "step", {"data": "1"}) is None
    record(settings, "step", {"data": "1", "options": [1, 2]}, {"rows": 3})
    assert recorded(settings, "step", {"options": [1, 2], "data": "1"}) == {"rows": 3}
    assert recorded(settings, "step", {"data": "2", "options": [1, 2]}) is None
    assert recorded(settings, "step", {"data": "1"}) is None
    assert recorded(settings, "other", {"data": "1", "options": [1, 2]}) is None
    record(settings, "step", {"data": "2"}, {"rows": 4})
    assert recorded(settings, "step", {"data": "1", "options": [1, 2]}) is None, "only the last run is remembered"
    stored = json.loads((settings.state_dir / "step.json").read_text(encoding="utf-8"))
    assert stored["result"] == {"rows": 4}


def test_the_hash_of_the_real_code_is_stable() -> None:
    code_hash.cache_clear()
    first = code_hash("pipelines/steps.py", "pipelines/features")
    code_hash.cache_clear()
    assert code_hash("pipelines/steps.py", "pipelines/features") == first
