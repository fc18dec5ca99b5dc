"""A publisher that dies between its steps, as by kill -9: old vectors are served, and a rerun mends what was left."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.tables import read_table, write_table
from pipelines.publish_embeddings import publish_embeddings
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS, PUBLISHED

NEW = {"ann": (3, 4), "cid": (5, 0)}

PUBLISHER = """
import sys
from datetime import datetime
from pathlib import Path
from caspr_spark.config_file import load_config
from caspr_spark.session import spark_session
from pipelines.publish_embeddings import publish_embeddings

overlays, as_of = sys.argv[1:-1], sys.argv[-1]
config = load_config(overlays)
settings = {"spark.master": "local[2]", "spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "2"}
spark = spark_session("publisher", settings, log_file=Path(config.root) / "spark.log")
publish_embeddings(spark, config, datetime.fromisoformat(as_of))
"""


OLD = [("ann", "r1", (1, 0)), ("bob", "r1", (0.5, -1))]
UNDISTURBED = {
    "customer_embedding_history": [*OLD, ("ann", "r2", (3, 4)), ("cid", "r2", (5, 0))],
    "customer_embeddings": [("ann", "r2", (3, 4)), ("bob", "r1", (0.5, -1)), ("cid", "r2", (5, 0))],
}


def contents(spark: SparkSession, config: Config) -> dict[str, list[Any]]:
    """Table -> (customer, run, vector), by run and customer for history, by customer for latest."""
    tables = {contract.name: read_table(spark, contract, config.root).collect() for contract in PUBLISHED}
    found = {name: [(row[0], row["run_id"], tuple(row["embedding"])) for row in rows] for name, rows in tables.items()}
    return {
        "customer_embedding_history": sorted(found["customer_embedding_history"], key=lambda row: (row[1], row[0])),
        "customer_embeddings": sorted(found["customer_embeddings"]),
    }


def killed_at(point: str, config: Config, overlays: list[Path], as_of: Any) -> None:
    """Publish in a process of its own that dies at `point`."""
    command = [sys.executable, "-c", PUBLISHER, *map(str, overlays), as_of.isoformat()]
    environment = {**os.environ, "CASPR_CRASH_AT": point}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], timeout=500, capture_output=True)
    assert done.returncode == 137, done.stderr.decode()[-2000:]


def publish_killed_and_again(
    point: str, spark: SparkSession, config: Config, overlays: list[Path], embed: Any
) -> tuple[dict[str, list[Any]], bool]:
    """What readers see after a kill at `point`, and whether the rerun had to do anything; its end is undisturbed."""
    as_of = embed(NEW, day=2, run_id="r2")
    killed_at(point, config, overlays, as_of)
    for contract in PUBLISHED:
        leave_unfinished_file(Path(config.root) / contract.name)
    seen = contents(spark, config)
    changed = publish_embeddings(spark, config, as_of).changed
    assert contents(spark, config) == UNDISTURBED
    return seen, changed


def leave_unfinished_file(table: Path) -> None:
    """A data file that was written but never committed, as a killed writer leaves one."""
    data = next(path for path in sorted(table.glob("*.parquet")))
    shutil.copy(data, table / f"part-00099-unfinished-{data.name[-30:]}")


def test_f01_killed_before_the_first_commit(
    spark: SparkSession, once_published: Config, overlays: list[Path], embed: Any
) -> None:
    seen, changed = publish_killed_and_again("before_history", spark, once_published, overlays, embed)
    assert seen == {"customer_embedding_history": OLD, "customer_embeddings": OLD}
    assert changed


def test_f03_killed_between_history_and_latest(
    spark: SparkSession, once_published: Config, overlays: list[Path], embed: Any
) -> None:
    seen, changed = publish_killed_and_again("after_history", spark, once_published, overlays, embed)
    assert seen == {**UNDISTURBED, "customer_embeddings": OLD}
    assert changed


@pytest.mark.slow
def test_f02_killed_after_the_last_commit(
    spark: SparkSession, once_published: Config, overlays: list[Path], embed: Any
) -> None:
    seen, changed = publish_killed_and_again("after_runs", spark, once_published, overlays, embed)
    assert (seen, changed) == (UNDISTURBED, False)


def test_f03_finished_from_history_when_embeddings_hold_a_later_run(
    spark: SparkSession, once_published: Config, embed: Any
) -> None:
    """As after a kill between history and latest: r2 is in history, but latest knows nothing of it."""
    as_of = embed(NEW, day=2, run_id="r2")
    run = read_table(spark, EMBEDDINGS, once_published.root)
    write_table(run, CUSTOMER_EMBEDDING_HISTORY, once_published.root, mode="append", once="r2")
    embed({"dan": (1, 1)}, day=3, run_id="r3")
    assert publish_embeddings(spark, once_published, as_of).changed
    assert contents(spark, once_published) == UNDISTURBED
