"""A builder that is killed while Spark writes: the sequences of before are whole, and the next run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from caspr_spark.config_file import load_config
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import read_manifest, sequences_folder
from pipelines.build_sequences import build_sequences
from tests.sequences.random_bank import AS_OF, bank_config, write_bank
from tests.sequences.test_against_oracle import EVENTS, PROFILES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_f05_killed_while_the_files_are_written(spark: SparkSession, tmp_path: Path) -> None:
    config = bank_config(tmp_path)
    write_bank(spark, config, EVENTS, PROFILES)
    build_sequences(spark, config, AS_OF)
    folder = sequences_folder(config.root, AS_OF)
    before = read_manifest(folder)

    other = tmp_path / "other.yaml"  # other customers are held out: all files are written anew
    other.write_text(yaml.safe_dump({"seed": config.seed + 1}))
    configs = ["--config", str(tmp_path / "bank.yaml"), "--config", str(other)]
    command = [sys.executable, "-m", "jobs.cli", "build-sequences", *configs, "--as-of", AS_OF.isoformat()]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    while not list(folder.glob("data-*/_temporary")):
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)  # Python and Java
    process.wait()

    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2  # the new files were begun
    assert read_manifest(folder) == before
    for file in before.files:
        assert file_sha256(folder / file.path) == file.sha256

    changed = load_config([tmp_path / "bank.yaml", other])
    assert build_sequences(spark, changed, AS_OF).changed
    after = read_manifest(folder)
    assert after.rows == before.rows
    assert {Path(file.path).parts[0] for file in after.files} == {
        path.name for path in folder.iterdir() if path.is_dir()
    }
