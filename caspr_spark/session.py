"""The Spark session: every setting that our results or our silence depend on, with its reason."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyspark import SparkConf, SparkContext
from pyspark.logger import PySparkLogger
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

_ALWAYS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",  # a time is the same whatever the machine's zone
    "spark.python.sql.dataFrameDebugging.enabled": "false",  # noting where each column was made takes half of planning
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # pandas writes nanoseconds, which Spark otherwise refuses
}
_ONE_MACHINE = {
    "spark.databricks.delta.snapshotPartitions": "2",  # the default of 50 makes a small MERGE three times slower
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "4",  # VACUUM otherwise starts 10,000 tasks
    "spark.ui.showConsoleProgress": "false",  # we draw our own
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}


def spark_session(app_name: str, settings: Mapping[str, str], *, log_file: Path | None = None) -> SparkSession:
    """The running session, or a new one with `settings` where spark-submit has not set them.

    `log_file` takes what the JVM would write to the terminal. Under spark-submit the JVM already runs and its own
    logging holds.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # workers otherwise take the first python3 on the PATH
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit started us, and its JVM waits with its settings
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL)  # it prints what we raise, with a JVM stack trace
    builder = SparkSession.builder.appName(app_name)
    others = _with_py_files() if submitted else {**_ONE_MACHINE, **settings}
    for key, value in {**_ALWAYS, **others}.items():
        builder = builder.config(key, value)
    with _stderr_to(None if submitted else log_file):
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
    return session


def local_frame(spark: SparkSession, rows: Iterable[Sequence[object]], ddl: str) -> DataFrame:
    """A few rows as a DataFrame with the columns of `ddl`; a time has a zone.

    As `createDataFrame` of rows, which however has a Python worker hand them over, anew whenever they are read: a
    second, and several for the first.
    """
    schema = StructType.fromDDL(ddl)
    assert isinstance(schema, StructType)
    records = [dict(zip(schema.names, row, strict=True)) for row in rows]
    return spark.createDataFrame(pa.Table.from_pylist(records, schema=to_arrow_schema(schema)), schema)


def _with_py_files() -> dict[str, str]:
    """Let processes that a Spark worker starts (Horovod's) find --py-files too; they lie in its folder."""
    SparkContext._ensure_initialized()
    submitted = SparkConf()
    names = [Path(place).name for place in submitted.get("spark.submit.pyFiles", "").split(",") if place]
    key = "spark.executorEnv.PYTHONPATH"
    return {key: os.pathsep.join([*names, *filter(None, [submitted.get(key, "")])])} if names else {}


@contextmanager
def _stderr_to(path: Path | None) -> Iterator[None]:
    """Let a child process that is started meanwhile write its errors to `path`."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
