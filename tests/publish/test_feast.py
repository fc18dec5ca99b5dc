"""Feast itself, in an environment of its own, looks vectors up through the exported definition."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.publish.definitions import feast_definition
from caspr_spark.reader import read_as_of
from caspr_spark.session import local_frame
from caspr_spark.tables import table_path, write_table
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY

ROOT = Path(__file__).resolve().parents[2]
FEATURE_STORE = """
project: customers
provider: local
registry: registry.db
offline_store: {type: duckdb}
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""
ASK_FEAST = """
import pandas, feast
entities = pandas.read_parquet("entities.parquet").rename(columns={"event_time": "event_timestamp"})
names = ["embedding", "last_event_time", "num_events", "model_version", "run_id"]
job = feast.FeatureStore(".").get_historical_features(
    entity_df=entities, features=[f"customer_embedding_history:{name}" for name in names])
job.to_df().rename(columns={"event_timestamp": "event_time"}).to_parquet("feast.parquet")
"""
ASK_US = """
import sys, pyarrow.parquet as pq
from caspr_spark.reader import read_as_of
pq.write_table(read_as_of(sys.argv[1], pq.read_table("entities.parquet")), "ours.parquet")
print(*[name for name in ("pyspark", "torch") if name in sys.modules])
"""
FIRST = datetime(2024, 1, 1, 6, 0, 0, 123_457, tzinfo=UTC)  # parts of a millisecond, which Delta's statistics round


@pytest.fixture(scope="module")
def feast_bin() -> Path:
    """The folder of commands of the environment that Feast has; made on first use."""
    script = [sys.executable, str(ROOT / "tools" / "neighbour_env.py"), str(Path(__file__).parent / "feast-0.67.0.txt")]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip()).parent


def write_history(spark: SparkSession, root: str, random: np.random.Generator) -> None:
    """Five runs, each of some of 40 customers, and then one customer deleted: the old files still hold him."""
    for number in range(5):
        as_of = FIRST + timedelta(hours=20 * number)
        vectors = [
            (f"c{customer}", [float(x) for x in random.standard_normal(4)])
            for customer in random.choice(40, 25, replace=False)
        ]
        run = local_frame(spark, vectors, "customer_id string, embedding array<float>").select(
            "*",
            F.lit(as_of).alias("as_of"),
            F.lit(as_of - timedelta(microseconds=1)).alias("last_event_time"),
            F.lit(number).alias("num_events"),
            F.lit("m1").alias("model_version"),
            F.lit(f"r{number}").alias("run_id"),
        )
        write_table(run, CUSTOMER_EMBEDDING_HISTORY, root, mode="append", once=f"r{number}")
    DeltaTable.forPath(spark, table_path(CUSTOMER_EMBEDDING_HISTORY, root)).delete("customer_id = 'c7'")


def entities_at(random: np.random.Generator) -> Any:
    """200 customers and times, among them the microseconds before, at and after each run."""
    runs = [FIRST + timedelta(hours=20 * number) for number in range(5)]
    edges = [time + timedelta(microseconds=shift) for time in runs for shift in (-1, 0, 1)]
    times = edges * 6 + [FIRST + timedelta(hours=float(hour)) for hour in random.uniform(-20, 120, 110)]
    return pa.table(
        {
            "row": list(range(200)),
            "customer_id": [f"c{number}" for number in random.integers(0, 45, 200)],
            "event_time": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_feast_and_our_reader_agree_at_every_time(spark: SparkSession, tmp_path: Path, feast_bin: Path) -> None:
    random = np.random.default_rng(4)
    root, repository = tmp_path / "root", tmp_path / "feature_repo"
    write_history(spark, str(root), random)
    repository.mkdir()
    (repository / "features.py").write_text(feast_definition(str(root)), encoding="utf-8")
    (repository / "feature_store.yaml").write_text(FEATURE_STORE)
    entities = entities_at(random)
    pq.write_table(entities, repository / "entities.parquet")

    ours = read_as_of(root, entities)
    found = ours.column("run_id").to_pylist()
    assert 100 < sum(run is not None for run in found) < 190
    assert all(
        run is None for run, name in zip(found, entities["customer_id"].to_pylist(), strict=True) if name == "c7"
    )

    def run(*command: str) -> str:
        environment = {**os.environ, "FEAST_USAGE": "False", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    run(str(feast_bin / "feast"), "apply")
    run(str(feast_bin / "python"), "-c", ASK_FEAST)
    assert rows_of(repository / "feast.parquet") == rows_of(ours)
    # and our reader in that environment, without Spark and with a newer pyarrow, reads what it reads here
    assert run(str(feast_bin / "python"), "-c", ASK_US, str(root)).strip() == ""
    assert rows_of(repository / "ours.parquet") == rows_of(ours)


def rows_of(table: Any) -> list[tuple[Any, ...]]:
    """The rows by number, without as_of, which Feast does not give; a missing number is None in both."""
    names = [
        "row",
        "customer_id",
        "event_time",
        "embedding",
        "last_event_time",
        "num_events",
        "model_version",
        "run_id",
    ]
    frame = (pq.read_table(table) if isinstance(table, Path) else table).select(names)
    rows = [tuple(None if value != value else value for value in row.values()) for row in frame.to_pylist()]
    return sorted(rows, key=lambda row: int(row[0]))
