"""Runs to publish: vectors written by hand, with the manifest that promises them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.manifest import Layout, SequenceFile, SequenceManifest, sequences_folder, write_manifest
from caspr_spark.tables import write_table
from schemas.embeddings import EMBEDDINGS

COMPLETE_JOURNEY = Path(__file__).parents[2] / "conf" / "complete_journey.yaml"
Vectors = Mapping[str, Sequence[float]]
Embed = Callable[..., datetime]


@pytest.fixture
def overlays(tmp_path: Path) -> list[Path]:
    """Configuration files for vectors of two numbers, below a root of their own."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"root: {tmp_path / 'root'}\nmodel: {{embedding_size: 2}}\n")
    return [COMPLETE_JOURNEY, overlay]


@pytest.fixture
def config(overlays: list[Path]) -> Config:
    return load_config(overlays)


@pytest.fixture
def embed(spark: SparkSession, config: Config) -> Embed:
    """Write one run's `embeddings` as of a day of October 2017, and the manifest; returns the as_of."""

    def write(vectors: Vectors, *, day: int, run_id: str, promised: int | None = None) -> datetime:
        as_of = datetime(2017, 10, day, tzinfo=UTC)
        rows = [(customer, [float(x) for x in vector]) for customer, vector in vectors.items()]
        run = spark.createDataFrame(rows, "customer_id string, embedding array<float>").select(
            "*",
            F.lit(as_of).alias("as_of"),
            F.timestamp_micros(F.unix_micros(F.lit(as_of)) - 1).alias("last_event_time"),
            F.lit(3).alias("num_events"),
            F.lit("m1").alias("model_version"),
            F.lit(run_id).alias("run_id"),
        )
        write_table(run, EMBEDDINGS, config.root, made_from=run_id)
        promise_rows(config.root, as_of, len(vectors) if promised is None else promised)
        return as_of

    return write


def promise_rows(root: str, as_of: datetime, rows: int) -> None:
    """A manifest that names one file of so many rows."""
    empty = Layout(max_events=4, categorical=(), sets=(), numerical=(), profile_categorical=(), profile_numerical=())
    file = SequenceFile(path="a.parquet", split="training", rows=rows, row_groups=1, bytes=1, sha256="0")
    folder = sequences_folder(root, as_of)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = SequenceManifest(
        as_of=as_of, fingerprint="f", layout=empty, vocabulary_version="v", scaling={}, files=(file,), lineage={}
    )
    write_manifest(manifest, folder)
