"""What all tests share: one Spark session."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from caspr_spark.session import spark_session

# The machine's zone is not the session's, so that a test that mixes them up fails.
os.environ["TZ"] = "America/New_York"
time.tzset()
# Settings of every JVM that tests start, their own and those of the commands that they run.
os.environ["SPARK_CONF_DIR"] = str(Path(__file__).parent / "spark_conf")


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The session that we start ourselves, small: every test shares it and leaves its settings as they were."""
    settings = {
        "spark.master": "local[2]",
        "spark.driver.memory": "1g",
        "spark.sql.shuffle.partitions": "2",  # tables of a few rows
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    log_file: Path = tmp_path_factory.mktemp("logs") / "spark.log"
    session = spark_session("tests", settings, log_file=log_file)
    yield session
    session.stop()
