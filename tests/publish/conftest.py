"""Runs to publish: vectors written by hand, with the manifest that promises them."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import read_aliases
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.manifest import SequenceFile, SequenceManifest, sequences_folder, write_manifest
from caspr_spark.session import local_frame
from caspr_spark.tables import write_table
from pipelines.publish_embeddings import publish_embeddings
from schemas.embeddings import EMBEDDINGS
from tests.models.registered import EMPTY, register

COMPLETE_JOURNEY = Path(__file__).parents[2] / "conf" / "complete_journey.yaml"
FIRST = {"ann": (1, 0), "bob": (0.5, -1)}
SECOND = {"ann": (3, 4), "çid 'x'": (5, 0)}
Vectors = Mapping[str, Sequence[float]]
Embed = Callable[..., datetime]


@pytest.fixture
def overlays(tmp_path: Path) -> list[Path]:
    """Configuration files for vectors of two numbers, below a root of their own."""
    return overlays_below(tmp_path)


@pytest.fixture
def config(overlays: list[Path]) -> Config:
    return load_config(overlays)


@pytest.fixture
def embed(spark: SparkSession, config: Config) -> Embed:
    """Write one run's `embeddings` as of a day of October 2017, and the manifest; returns the as_of."""

    def write(vectors: Vectors, *, day: int, run_id: str, promised: int | None = None) -> datetime:
        return write_run(spark, config, vectors, day=day, run_id=run_id, promised=promised)

    return write


@pytest.fixture(scope="session")
def published_roots(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of published runs -> root: r1 (FIRST, day 1) in root 1, r2 (SECOND, day 2) as well in root 2."""
    folder = tmp_path_factory.mktemp("published")
    config = load_config(overlays_below(folder))
    roots = {}
    for number, vectors in enumerate((FIRST, SECOND), start=1):
        as_of = write_run(spark, config, vectors, day=number, run_id=f"r{number}")
        assert publish_embeddings(spark, config, as_of).changed
        roots[number] = folder / f"root-{number}"
        shutil.copytree(config.root, roots[number])
    return roots


@pytest.fixture
def once_published(config: Config, published_roots: dict[int, Path]) -> Config:
    """The configuration of a root of its own in which r1 is published."""
    shutil.copytree(published_roots[1], config.root)
    return config


@pytest.fixture
def twice_published(config: Config, published_roots: dict[int, Path]) -> Config:
    """The configuration of a root of its own in which r1 and r2 are published."""
    shutil.copytree(published_roots[2], config.root)
    return config


def overlays_below(folder: Path) -> list[Path]:
    overlay = folder / "overlay.yaml"
    overlay.write_text(f"root: {folder / 'root'}\nmodel: {{embedding_size: 2}}\n")
    return [COMPLETE_JOURNEY, overlay]


def write_run(
    spark: SparkSession,
    config: Config,
    vectors: Vectors,
    *,
    day: int,
    run_id: str,
    promised: int | None = None,
    model: str = "m1",
) -> datetime:
    """`m1` is the champion where there is none yet."""
    as_of = datetime(2017, 10, day, tzinfo=UTC)
    if read_aliases(config.root).champion is None:
        register(config.root, "m1")
    rows = [(customer, [float(x) for x in vector]) for customer, vector in vectors.items()]
    run = local_frame(spark, rows, "customer_id string, embedding array<float>").select(
        "*",
        F.lit(as_of).alias("as_of"),
        F.timestamp_micros(F.unix_micros(F.lit(as_of)) - 1).alias("last_event_time"),
        F.lit(3).alias("num_events"),
        F.lit(model).alias("model_version"),
        F.lit(run_id).alias("run_id"),
    )
    write_table(run, EMBEDDINGS, config.root, made_from=run_id)
    promise_rows(config.root, as_of, len(vectors) if promised is None else promised)
    return as_of


def promise_rows(root: str, as_of: datetime, rows: int) -> None:
    """A manifest that names one file of so many rows."""
    file = SequenceFile(path="a.parquet", split="training", rows=rows, row_groups=1, bytes=1, sha256="0")
    folder = sequences_folder(root, as_of)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = SequenceManifest(
        as_of=as_of, fingerprint="f", layout=EMPTY, vocabulary_version="v", scaling={}, files=(file,), lineage={}
    )
    write_manifest(manifest, folder)
