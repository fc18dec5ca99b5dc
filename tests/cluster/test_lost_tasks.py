"""Tasks that are lost or slow: an executor or its Python is killed or stops at work, and the result is whole.

Each test ends with the vectors that the encoder itself gives, once a customer.
"""

import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from deltalake import DeltaTable

from caspr_spark.config_file import load_config
from caspr_spark.manifest import read_manifest, sequences_folder
from tests.cli.commands import COMPLETE_JOURNEY, ended, overlay_for, started, wait_until
from tests.embed.planted_root import planted_root
from tests.embed.test_embed_customers import direct_vectors, same_vectors
from tests.pretrain.planted import AS_OF, FilePlan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

NUM_FILES, ROWS_A_FILE = 8, 25
FOR_TIME = ("--as-of", AS_OF.isoformat())
SPECULATION = {
    "speculation": "true",
    "speculation_interval": "100ms",
    "speculation_quantile": "0.5",
    "speculation_multiplier": "1.1",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return planted_root(tmp_path / "root", [FilePlan("training", (ROWS_A_FILE,))] * NUM_FILES)


def one_task_a_file(root: Path) -> dict[str, str]:
    """Settings of Spark."""
    largest = max(file.bytes for file in read_manifest(sequences_folder(root, AS_OF)).files)
    return {"sql_files_maxPartitionBytes": str(largest), "sql_files_openCostInBytes": "0"}


def embedding_on(cluster: Any, root: Path, **settings: str) -> "subprocess.Popen[str]":
    configs = ["--config", str(COMPLETE_JOURNEY), "--config", str(overlay_for(root))]
    process: subprocess.Popen[str] = cluster.started(
        "embed_customers", *configs, *FOR_TIME, **one_task_a_file(root), **settings
    )
    return process


def workers_at_work(process: int) -> list[psutil.Process]:
    """Below a process: what Spark's Python daemons have started, each busy with a task of ours."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            parent = child.parent()
            if parent is not None and all("pyspark.daemon" in one.cmdline() for one in (child, parent)):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def is_whole(root: Path) -> bool:
    """Every customer is there once, with the vector of an undisturbed run."""
    rows = DeltaTable(str(root / "embeddings")).to_pyarrow_table().to_pylist()
    assert len(rows) == NUM_FILES * ROWS_A_FILE
    same_vectors({row["customer_id"]: row["embedding"] for row in rows}, direct_vectors(root))
    return True


def test_f06_an_executor_is_killed_at_work(cluster: Any, root: Path) -> None:
    process = embedding_on(cluster, root)
    worker = wait_until(lambda: workers_at_work(cluster.workers[0]), process)[0]
    executor = worker.parent().parent()
    assert any("CoarseGrainedExecutorBackend" in part for part in executor.cmdline())
    executor.kill()

    code, printed = ended(process)
    assert code == 0, printed[-3000:]
    assert is_whole(root)


def test_f09_a_task_that_hangs_is_tried_elsewhere_and_counts_once(cluster: Any, root: Path) -> None:
    process = embedding_on(cluster, root, **SPECULATION)
    hanging = wait_until(lambda: workers_at_work(cluster.workers[0]), process)[0]
    hanging.suspend()
    try:
        code, printed = ended(process)
        assert code == 0, printed[-3000:]
        assert is_whole(root)
    finally:
        if hanging.is_running():
            hanging.kill()


def test_f07_a_python_worker_is_killed_once_under_the_default_settings(root: Path) -> None:
    assert load_config([COMPLETE_JOURNEY]).spark.settings["spark.master"] == "local[2,4]"
    settings = {f"spark.{key.replace('_', '.')}": value for key, value in one_task_a_file(root).items()}
    process = started("embed-customers", *FOR_TIME, overlay=overlay_for(root, spark={"settings": settings}))
    wait_until(lambda: workers_at_work(process.pid), process)[0].kill()

    code, printed = ended(process)
    assert code == 0, printed[-3000:]
    assert is_whole(root)
