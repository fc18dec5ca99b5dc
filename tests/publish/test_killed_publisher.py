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
from caspr_spark.tables import read_table
from pipelines.publish_embeddings import PUBLISHED, publish_embeddings
from schemas.contract import Contract

OLD = {"ann": (1, 0), "bob": (0, 1)}
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


def rows(spark: SparkSession, contract: Contract, root: str) -> list[Any]:
    return sorted(read_table(spark, contract, root).collect())


def killed_at(point: str, config: Config, overlays: list[Path], as_of: Any) -> None:
    """Publish in a process of its own that dies at `point`."""
    command = [sys.executable, "-c", PUBLISHER, *map(str, overlays), as_of.isoformat()]
    environment = {**os.environ, "CASPR_CRASH_AT": point}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], timeout=300, capture_output=True)
    assert done.returncode == 137, done.stderr.decode()[-2000:]


def publish_killed_and_again(point: str, spark: SparkSession, config: Config, overlays: list[Path], embed: Any) -> None:
    """After a kill at `point` every old row is served; after a rerun both tables equal those of an undisturbed run."""
    first = embed(OLD, day=1, run_id="r1")
    publish_embeddings(spark, config, first)
    undisturbed = config.model_copy(update={"root": f"{config.root}-undisturbed"})
    shutil.copytree(config.root, undisturbed.root)
    before = {contract.name: rows(spark, contract, config.root) for contract in PUBLISHED}

    second = embed(NEW, day=2, run_id="r2")
    killed_at(point, config, overlays, second)
    served = {contract.name: rows(spark, contract, config.root) for contract in PUBLISHED}
    if point != "after_latest":
        assert served["customer_embeddings"] == before["customer_embeddings"]
    assert set(served["customer_embedding_history"]) >= set(before["customer_embedding_history"])
    leave_unfinished_file(Path(config.root) / "customer_embeddings")
    leave_unfinished_file(Path(config.root) / "customer_embedding_history")
    assert publish_embeddings(spark, config, second).changed is (point != "after_latest")

    for name in ("embeddings", "sequences"):
        shutil.rmtree(Path(undisturbed.root) / name)
        shutil.copytree(Path(config.root) / name, Path(undisturbed.root) / name)
    publish_embeddings(spark, undisturbed, second)
    for contract in PUBLISHED:
        assert rows(spark, contract, config.root) == rows(spark, contract, undisturbed.root)


def leave_unfinished_file(table: Path) -> None:
    """A data file that was written but never committed, as a killed writer leaves one."""
    data = next(path for path in sorted(table.glob("*.parquet")))
    shutil.copy(data, table / f"part-00099-unfinished-{data.name[-30:]}")


def test_f01_killed_before_the_first_commit(
    spark: SparkSession, config: Config, overlays: list[Path], embed: Any
) -> None:
    publish_killed_and_again("before_history", spark, config, overlays, embed)


def test_f03_killed_between_history_and_latest(
    spark: SparkSession, config: Config, overlays: list[Path], embed: Any
) -> None:
    publish_killed_and_again("after_history", spark, config, overlays, embed)


@pytest.mark.slow
def test_f02_killed_after_the_last_commit(
    spark: SparkSession, config: Config, overlays: list[Path], embed: Any
) -> None:
    publish_killed_and_again("after_latest", spark, config, overlays, embed)


def test_f03_finished_from_history_when_embeddings_hold_a_later_run(
    spark: SparkSession, config: Config, embed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException): ...

    def die(code: int) -> None:
        raise KilledError(code)

    first = embed(OLD, day=1, run_id="r1")
    monkeypatch.setenv("CASPR_CRASH_AT", "after_history")
    monkeypatch.setattr(os, "_exit", die)
    with pytest.raises(KilledError):
        publish_embeddings(spark, config, first)
    monkeypatch.undo()
    publish_embeddings(spark, config, embed(NEW, day=2, run_id="r2"))
    assert publish_embeddings(spark, config, first).changed
    latest = {row["customer_id"]: row["run_id"] for row in rows(spark, PUBLISHED[1], config.root)}
    assert latest == {"ann": "r2", "bob": "r1", "cid": "r2"}
