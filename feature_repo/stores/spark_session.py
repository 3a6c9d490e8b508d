"""One way to a Spark session, so that every part of a process shares one, in UTC, and a missing Java or PySpark is named."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.errors import SparkJobError, SparkNotAvailableError, SparkSettingError
from feature_repo.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOCAL_MASTER = "local[2]"
# Spark 4 needs 17; it names older ones only in a stack trace of the JVM.
MIN_JAVA = 17

# What our answers depend on: a `spark_conf` that says otherwise is refused.
_FIXED = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # An executor that dies must not turn a wrong type into nulls.
    "spark.sql.ansi.enabled": "true",
    "spark.sql.timestampType": "TIMESTAMP_LTZ",
    # Spark has no nanoseconds and refuses files that have; the offline store reads them as integers and cuts them.
    "spark.sql.legacy.parquet.nanosAsLong": "true",
}
_DEFAULTS = {
    "spark.app.name": "pitwall",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.catalogImplementation": "in-memory",
}
_LOCAL = {
    "spark.driver.memory": "2g",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
}
_QUIET = Path(__file__).with_name("log4j2.properties")


def spark_session(master: str = LOCAL_MASTER, conf: Mapping[str, str] | None = None) -> "SparkSession":
    """The Spark session of this process: the one that runs already, or a new one.

    Times are UTC whatever the machine's zone; Python workers run this process's interpreter. A local master is bound to the
    loopback address and given 2 GiB; for any other, memory and addresses are left to the cluster and to `conf`.

    Args:
        master: a Spark master: `local[2]`, `spark://host:7077`, `yarn`, `k8s://...`.
        conf: further Spark settings, which win over the defaults. Ignored when a session runs already, as Spark does.
    Raises:
        SparkNotAvailableError: PySpark or Java is missing or too old, or Spark does not start.
        SparkSettingError: `conf` changes a setting that results depend on.
    """
    chosen = dict(conf or {})
    for name, value in _FIXED.items():
        if chosen.get(name, value).lower() != value.lower():
            raise SparkSettingError(
                f"spark_conf: got {name}={chosen[name]!r}, expected {value!r}: results depend on it; leave it out"
            )
    try:
        from pyspark.errors import PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SparkNotAvailableError(
            f"engine spark: got no PySpark ({error}), expected the extra `spark`; run `pip install '.[spark]'` in a checkout"
        ) from error
    running = SparkSession.getActiveSession()
    if running is not None and not running.sparkContext._jsc.sc().isStopped():
        for name, value in _FIXED.items():
            if name.startswith("spark.sql."):
                running.conf.set(name, value)
        return running
    _check_java()
    is_local = master.startswith("local")
    settings = {**_DEFAULTS, **(_LOCAL if is_local else {}), **chosen, **_FIXED}
    if is_local:
        # Out of memory, a thread of the JVM ends and Python would wait for its answer for ever: better that the JVM ends.
        quiet = f"-XX:+ExitOnOutOfMemoryError -Dlog4j2.configurationFile={_QUIET.as_uri()}"
        settings["spark.driver.extraJavaOptions"] = f"{quiet} {settings.get('spark.driver.extraJavaOptions', '')}".strip()
    # Read when the session starts, and from the environment only. A cluster's image must have this path, or conf names another.
    os.environ.setdefault("PYSPARK_PYTHON", settings.get("spark.pyspark.python", sys.executable))
    builder = SparkSession.builder.master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except (PySparkRuntimeError, OSError) as error:
        raise SparkNotAvailableError(
            f"engine spark: got no session on {master!r} ({error}); check spark_master, JAVA_HOME and the message above"
        ) from error
    session.sparkContext.setLogLevel("ERROR")
    return session


def session_of(settings: Settings) -> "SparkSession":
    """The Spark session that `settings` ask for (see `spark_session`)."""
    return spark_session(settings.spark_master, settings.spark_conf)


@contextmanager
def worker_errors(step: str) -> Iterator[None]:
    """Say in one line what a worker said in a stack trace of two languages.

    Raises:
        SparkJobError: Spark failed inside this block.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JError, ConnectionError, EOFError) as error:
        raise SparkJobError(
            f"{step} on Spark: the driver's JVM ended ({type(error).__name__}), most likely out of memory; give it more by "
            "spark_conf: {spark.driver.memory: 4g}, or ask in parts"
        ) from error
    except PySparkException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "SQLSTATE" not in line]
        # The last line of Python's stack trace is the error; what the JVM adds begins with "at".
        said = next((line for line in reversed(lines) if not line.startswith(("at ", "..."))), type(error).__name__)
        raise SparkJobError(f"{step} on Spark: a worker failed: {said}") from error


def n_tasks(spark: "SparkSession") -> int:
    """Tasks of a stage that computes in Python: two a core, so that a slow one does not leave the others waiting for long.

    Left to itself Spark sees few bytes, makes one task, and one worker computes everything.
    """
    return 2 * int(spark.sparkContext.defaultParallelism)


def spark_offline_store(settings: Settings) -> dict[str, Any]:
    """The `offline_store` of a Feast configuration for engine spark."""
    kind = "feature_repo.stores.offline_spark.SparkAsOfOfflineStore"
    return {"type": kind, "spark_master": settings.spark_master, "spark_conf": dict(settings.spark_conf)}


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    next_step = f"install Java {MIN_JAVA} or newer, or set JAVA_HOME, or use engine embedded"
    if java is None or not Path(java).exists():
        raise SparkNotAvailableError(
            f"engine spark: got no Java {f'at {java}' if java else 'on the PATH'}, expected {MIN_JAVA} or newer; {next_step}"
        )
    told = subprocess.run([java, "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=False).stderr
    version = next((line.split("=")[1].strip() for line in told.splitlines() if "java.specification.version" in line), "")
    if not version.isdecimal() or int(version) < MIN_JAVA:
        raise SparkNotAvailableError(
            f"engine spark: got Java {version or told.strip()[:80]!r} at {java}, expected {MIN_JAVA} or newer; {next_step}"
        )
