"""Spark for tests: small, one session a process, and what to do where there is no Java or PySpark."""

import os
from pathlib import Path
from typing import Any

import pytest

from feature_repo.errors import SparkNotAvailableError
from feature_repo.settings import Settings
from feature_repo.stores.spark_session import session_of

# Tests have a hundred small jobs, not one long one: few partitions, and no time spent on compiling what runs once.
CONF = {
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.codegen.wholeStage": "false",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
}


def on_spark(settings: Settings, home: Path | None = None) -> Settings:
    """The same settings for engine spark, by default in the same home."""
    changed: dict[str, Any] = {"engine": "spark", "spark_master": "local[2]", "spark_conf": CONF, "home": home or settings.home}
    return settings.model_copy(update=changed)


def start(settings: Settings) -> None:
    """Start Spark; skips where PySpark or Java is missing, and fails in CI."""
    try:
        session_of(settings)
    except SparkNotAvailableError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
