"""Feast's own tools read the folder as we mean it: the template is a configuration, and only the catalogue is imported."""

import sys
from pathlib import Path

import pytest
import yaml
from feast.repo_config import load_repo_config
from feast.repo_operations import get_repo_files, parse_repo

import feature_repo
from feature_repo import catalog, store
from feature_repo.settings import Settings

ROOT = Path(feature_repo.__file__).parent


def test_the_template_is_what_the_store_is_opened_with(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "feature_store.yaml").read_text(encoding="utf-8").replace("${PITWALL_HOME}", str(settings.home))
    store.apply(settings, objects=[])
    written = (settings.home / "feature_store.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == yaml.safe_load(written)


def test_feast_accepts_the_template(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PITWALL_HOME", str(settings.home))
    config = load_repo_config(ROOT, ROOT / "feature_store.yaml")
    assert config.registry.path == f"sqlite:///{settings.home}/registry.db"
    assert config.online_store.path == f"{settings.home}/online_store.db"
    assert config.offline_store.type == "feature_repo.stores.offline.AsOfOfflineStore"


def test_feast_imports_the_catalogue_alone_and_finds_every_definition_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [path.name for path in get_repo_files(ROOT)] == ["catalog.py"]
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    try:
        contents = parse_repo(ROOT)
    finally:
        sys.modules.pop("catalog", None)
    assert sorted(view.name for view in contents.feature_views) == sorted(view.name for view in catalog.VIEWS)
    assert sorted(service.name for service in contents.feature_services) == sorted(item.name for item in catalog.SERVICES)
    assert {entity.name for entity in catalog.ENTITIES} <= {entity.name for entity in contents.entities}
