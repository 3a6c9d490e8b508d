"""What is said where Spark cannot be had, and which Spark settings may not be changed. No Java is needed here."""

import builtins
from pathlib import Path
from typing import Any

import pytest

from feature_repo.errors import PitwallError, SparkJobError, SparkNotAvailableError, SparkSettingError
from feature_repo.settings import Settings
from feature_repo.stores import spark_session as module
from feature_repo.stores.spark_session import spark_offline_store, spark_session, worker_errors

pytest.importorskip("pyspark", reason="the extra `spark` is not installed")


@pytest.fixture
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", staticmethod(lambda: None))


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that JAVA_HOME names; `bin/java` is the test's to make."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    return tmp_path / "bin" / "java"


def test_without_pyspark_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "pyspark":
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SparkNotAvailableError, match=r"pip install '\.\[spark\]'") as caught:
        spark_session()
    assert isinstance(caught.value, PitwallError)


@pytest.mark.usefixtures("no_session")
def test_without_java_the_place_looked_at_is_named(java: Path) -> None:
    with pytest.raises(SparkNotAvailableError, match=r"got no Java at .*bin/java, expected 17 or newer"):
        spark_session()


@pytest.mark.usefixtures("no_session")
def test_without_java_home_the_path_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SparkNotAvailableError, match="got no Java on the PATH"):
        spark_session()


@pytest.mark.usefixtures("no_session")
@pytest.mark.parametrize("version", ["1.8", "11", ""])
def test_an_old_java_is_refused_before_a_jvm_dies_of_it(java: Path, version: str) -> None:
    java.write_text(f"#!/bin/sh\necho '    java.specification.version = {version}' >&2\n")
    java.chmod(0o755)
    with pytest.raises(SparkNotAvailableError, match=f"got Java .*{version}.*expected 17 or newer"):
        spark_session()


@pytest.mark.parametrize(
    ("name", "value"), [("spark.sql.session.timeZone", "Europe/Monaco"), ("spark.sql.execution.arrow.pyspark.enabled", "false")]
)
def test_settings_that_results_depend_on_may_not_be_changed(name: str, value: str) -> None:
    with pytest.raises(SparkSettingError, match=rf"spark_conf: got {name}='{value}'.*results depend on it"):
        spark_session(conf={name: value})


def test_the_engine_is_embedded_unless_settings_say_otherwise(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.engine == "embedded"
    monkeypatch.setenv("PITWALL_ENGINE", "spark")
    monkeypatch.setenv("PITWALL_SPARK_MASTER", "spark://driver:7077")
    monkeypatch.setenv("PITWALL_SPARK_CONF", '{"spark.executor.memory": "4g"}')
    chosen = spark_offline_store(Settings(home=settings.home))
    assert chosen == {
        "type": "feature_repo.stores.offline_spark.SparkAsOfOfflineStore",
        "spark_master": "spark://driver:7077",
        "spark_conf": {"spark.executor.memory": "4g"},
    }


def test_a_local_session_says_only_errors() -> None:
    assert "rootLogger.level = error" in module._QUIET.read_text(), "the file of log levels is part of the package"


@pytest.mark.parametrize("error", [ConnectionRefusedError("refused"), EOFError()])
def test_a_driver_that_ended_is_a_named_error_and_no_wait(error: Exception) -> None:
    with pytest.raises(SparkJobError, match="most likely out of memory"), worker_errors("retrieval"):
        raise error
