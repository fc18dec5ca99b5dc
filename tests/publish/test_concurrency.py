"""Writers and readers at the same time: what was acknowledged is there once, and whoever reads sees whole runs."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from delta.tables import DeltaTable as SparkDeltaTable
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import CasprError, TemporaryError
from caspr_spark.publish.feature_table import merged_into_latest
from caspr_spark.reader import read_latest, read_run
from caspr_spark.reader.snapshot import rows_of, snapshot
from caspr_spark.runs import Run
from caspr_spark.tables import read_table, table_path, write_table
from jobs.failures import explained_failures
from pipelines.maintain import maintain
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, EMBEDDINGS
from schemas.runs import RUNS
from tests.cli.commands import ended, started
from tests.publish.test_killed_publisher import UNDISTURBED, contents

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import sys, threading, time
from datetime import UTC, datetime
from pathlib import Path
from caspr_spark.config_file import load_config
from caspr_spark.session import spark_session
settings = {"spark.master": "local[2]", "spark.driver.memory": "1g", "spark.sql.shuffle.partitions": "2"}
spark = spark_session("other", settings, log_file=Path(sys.argv[1]) / "spark.log")
"""
NUM_RUNS = 6
PUBLISHER = (
    SESSION
    + """
from pipelines.publish_embeddings import publish_embeddings
from tests.publish.conftest import write_run
from tests.publish.test_concurrency import vectors_of
config = load_config(sys.argv[2:-1])
for number in range(1, int(sys.argv[-1]) + 1):
    publish_embeddings(spark, config, write_run(spark, config, vectors_of(number), day=number, run_id=f"r{number}"))
"""
)
NUM_WRITERS, NUM_ROUNDS, MOST_SECONDS = 8, 50, 300
APPENDER = (
    SESSION
    + """
from caspr_spark.runs import Run, record_run
from tests.publish.test_concurrency import NUM_ROUNDS, MOST_SECONDS
root, writers = sys.argv[1], sys.argv[2:]
lock, deadline = threading.Lock(), time.monotonic() + MOST_SECONDS

def work(writer):
    for number in range(NUM_ROUNDS):
        if time.monotonic() > deadline:
            return
        run = Run(f"{writer}-{number}", datetime(2024, 1, 1, tzinfo=UTC), "refresh", "m1", None, number, number)
        for _ in range(2):  # the second time, as after a lost acknowledgement, writes nothing
            record_run(spark, run, root)
        with lock:
            print(run.run_id, flush=True)

threads = [threading.Thread(target=work, args=(writer,)) for writer in writers]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
)


def vectors_of(number: int) -> dict[str, tuple[float, float]]:
    """The vectors of the run r<number>: odd runs are of everybody, even ones touch half of the customers."""
    return {f"c{customer}": (number, customer) for customer in range(10 if number % 2 else 5)}


def latest_after(number: int) -> dict[str, str]:
    """Customer -> run, once r<number> is the newest run."""
    return {name: f"r{run}" for run in range(1, number + 1) for name in vectors_of(run)}


def other_process(program: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *arguments]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_f26_a_reader_sees_one_whole_run_after_another(config: Config, overlays: list[Path], tmp_path: Path) -> None:
    states = [latest_after(number) for number in range(1, NUM_RUNS + 1)]
    seen, last = 0, -1
    process = other_process(PUBLISHER, str(tmp_path), *map(str, overlays), str(NUM_RUNS))
    while process.poll() is None or last < NUM_RUNS - 1:
        assert process.poll() in (None, 0), ended(process)[1][-3000:]
        try:
            recorded = recorded_runs(config.root)
            latest = read_latest(config.root).to_pylist()
        except CasprError:
            assert last < 0  # nothing was published yet
            continue
        if not latest:
            assert last < 0
            continue
        found = {row["customer_id"]: row["run_id"] for row in latest}
        assert len(found) == len(latest)
        assert found in states
        assert all(row["embedding"][0] == float(row["run_id"][1:]) for row in latest)
        assert states.index(found) >= last  # never back
        last, seen = states.index(found), seen + 1
        for run_id in recorded:  # what is recorded can be read, whole
            assert read_run(config.root, run_id).num_rows == len(vectors_of(int(run_id[1:])))
        assert len(recorded) <= last + 1
    assert ended(process)[0] == 0
    assert seen > NUM_RUNS


def recorded_runs(root: str) -> list[str]:
    """run_id of the runs that are recorded as published; none where there is no such table yet."""
    place = table_path(RUNS, root)
    if not DeltaTable.is_deltatable(place):
        return []
    runs: list[str] = DeltaTable(place).to_pyarrow_table()["run_id"].to_pylist()
    return runs


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_f25_what_eight_writers_were_told_is_there_once_and_in_their_order(tmp_path: Path) -> None:
    writers = [f"w{number}" for number in range(NUM_WRITERS)]
    processes = [other_process(APPENDER, str(tmp_path), *writers[half::2]) for half in (0, 1)]
    acknowledged: list[str] = []
    for process in processes:
        printed, _ = process.communicate()
        assert process.returncode == 0, printed[-3000:]
        acknowledged += [line for line in printed.splitlines() if line.startswith("w")]
    assert len(acknowledged) >= NUM_WRITERS * 3

    table = DeltaTable(table_path(RUNS, str(tmp_path)))
    assert Counter(table.to_pyarrow_table()["run_id"].to_pylist()) == Counter(acknowledged)
    commits = sorted((Path(table_path(RUNS, str(tmp_path))) / "_delta_log").glob("*.json"))
    assert [int(path.stem) for path in commits] == list(range(len(commits)))
    in_order = [name for path in commits for name in runs_committed(path)]
    for writer in writers:
        theirs = [int(name.split("-")[1]) for name in in_order if name.startswith(f"{writer}-")]
        assert theirs == list(range(len(theirs)))


def runs_committed(commit: Path) -> Iterator[str]:
    """run_id of the transaction that a commit carries."""
    for line in commit.read_text().splitlines():
        if "txn" in (action := json.loads(line)):
            yield action["txn"]["appId"]


@pytest.mark.slow
def test_f23_maintenance_and_publishing_take_turns_and_both_are_done(
    spark: SparkSession, once_published: Config, overlays: list[Path], embed: Any
) -> None:
    for number in range(3):  # small files to join
        row = read_table(spark, CUSTOMER_EMBEDDINGS, once_published.root).where("customer_id = 'ann'")
        write_table(row.replace("ann", f"x{number}"), CUSTOMER_EMBEDDINGS, once_published.root, mode="append")
    as_of = embed({"ann": (3, 4), "cid": (5, 0)}, day=2, run_id="r2")
    processes = [
        started("maintain", overlay=overlays[-1]),
        started("publish-embeddings", "--as-of", as_of.isoformat(), overlay=overlays[-1]),
    ]
    for process in processes:
        code, printed = ended(process)
        assert code == 0, printed[-3000:]

    found = contents(spark, once_published)
    latest = [row for row in found["customer_embeddings"] if not row[0].startswith("x")]
    assert found | {"customer_embeddings": latest} == UNDISTURBED
    assert len(found["customer_embeddings"]) == len(latest) + 3
    table = SparkDeltaTable.forPath(spark, table_path(CUSTOMER_EMBEDDINGS, once_published.root))
    assert {"OPTIMIZE", "MERGE"} <= {row["operation"] for row in table.history().select("operation").collect()}


def test_f23_a_compaction_by_another_program_during_the_merge_is_exit_75_and_the_next_try_does_it(
    spark: SparkSession, once_published: Config, embed: Any
) -> None:
    root = once_published.root
    place = table_path(CUSTOMER_EMBEDDINGS, root)
    others = read_table(spark, CUSTOMER_EMBEDDINGS, root).where("customer_id = 'bob'").replace("bob", "eve")
    write_table(others, CUSTOMER_EMBEDDINGS, root, mode="append")
    as_of = embed({"ann": (3, 4)}, day=2, run_id="r2")
    rows = read_table(spark, EMBEDDINGS, root)
    marker = Path(root) / "compacted"

    def compacting(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """What another program does while the rows of the MERGE are made."""
        for batch in batches:
            if not marker.exists():
                marker.write_text("")
                assert DeltaTable(place).optimize.compact()["numFilesRemoved"] > 1
            yield batch

    run = Run("r2", as_of, "full", "m1", None, -1, -1)
    during = rows.mapInArrow(compacting, rows.schema)
    gone = rows.select("customer_id").limit(0)
    merge = merged_into_latest(during, gone, SparkDeltaTable.forPath(spark, place), run)
    with pytest.raises(TemporaryError, match="another program wrote") as error, explained_failures(root, log="log"):
        merge.execute()
    assert error.value.exit_code == 75
    assert marker.exists()

    merged_into_latest(during, gone, SparkDeltaTable.forPath(spark, place), run).execute()
    served = {row["customer_id"]: row["run_id"] for row in read_latest(root).to_pylist()}
    assert served == {"ann": "r2", "bob": "r1", "eve": "r1"}


def test_f24_a_read_that_began_before_maintenance_ends_with_the_rows_of_its_version(
    spark: SparkSession, twice_published: Config
) -> None:
    root = twice_published.root
    pinned = {version: snapshot(root, CUSTOMER_EMBEDDINGS, version) for version in (1, 2)}
    names = ["customer_id", "run_id"]
    before = {version: rows_of(one, CUSTOMER_EMBEDDINGS, names, []).to_pylist() for version, one in pinned.items()}
    assert before[1] != before[2]

    maintain(spark, twice_published)
    table = SparkDeltaTable.forPath(spark, table_path(CUSTOMER_EMBEDDING_HISTORY, root))
    assert {"OPTIMIZE", "VACUUM END"} <= {row["operation"] for row in table.history().select("operation").collect()}
    for version, one in pinned.items():
        assert rows_of(one, CUSTOMER_EMBEDDINGS, names, []).to_pylist() == before[version]
        assert sorted(map(str, read_latest(root, columns=["run_id"], version=version).to_pylist())) == sorted(
            map(str, before[version])
        )
