"""Fixtures every test may ask for: where the real races are, and a home of its own."""

import os
from pathlib import Path

import pytest

from feature_repo.settings import Settings

# Two cores run several test processes; one thread each is the fastest and the most repeatable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TZ", "UTC")

_REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real races 2018-2024 beside the checkout (not part of the repository).

    Skips where it is absent; in CI its absence is a failure, because then the tests that matter most would not run.
    """
    folder = Path(os.environ.get("PITWALL_TEST_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (folder / "fastf1").is_dir():
        reason = f"real races not found at {folder}; set PITWALL_TEST_DATA to a folder laid out as docs/data-model.md says"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a fresh, empty home; no PITWALL_* variable or pitwall.yaml of the developer leaks in."""
    for name in [name for name in os.environ if name.startswith("PITWALL_") and name != "PITWALL_TEST_DATA"]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return Settings(home=tmp_path / "home")
