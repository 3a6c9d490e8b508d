"""Secrets come from the environment only, and are not shown."""

from pathlib import Path

import pytest

from feature_repo.errors import BadUsageError
from feature_repo.settings import Settings


def test_the_token_comes_from_the_environment_and_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PITWALL_API_TOKEN", "a secret")
    settings = Settings(home=tmp_path)
    assert settings.api_token is not None
    assert settings.api_token.get_secret_value() == "a secret"
    assert "a secret" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_file_that_holds_the_token_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PITWALL_API_TOKEN", raising=False)
    (tmp_path / "pitwall.yaml").write_text("seed: 3\n", encoding="utf-8")
    assert Settings(home=tmp_path).seed == 3
    (tmp_path / "pitwall.yaml").write_text("seed: 3\napi_token: a secret\n", encoding="utf-8")
    with pytest.raises(BadUsageError, match="environment only") as refused:
        Settings(home=tmp_path)
    assert "a secret" not in str(refused.value)
