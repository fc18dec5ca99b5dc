"""Scoring on Spark is the encoder's own answer, once a customer, and it refuses a model that does not belong."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.embed import score
from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.manifest import SequenceManifest, read_manifest, sequences_folder, write_manifest
from caspr_spark.model.onnx_encoder import onnx_encoder
from caspr_spark.model.scoring import load_encoder
from caspr_spark.registry import checkpoint_folder
from caspr_spark.tables import last_commit_notes, read_table
from pipelines.embed_customers import embed_customers
from schemas.embeddings import EMBEDDINGS
from tests.embed.planted_root import planted_root, save_untrained
from tests.pretrain.planted import AS_OF, AS_OF_US, FilePlan

OVERLAY = Path(__file__).parents[2] / "conf" / "complete_journey.yaml"
PLANS = [FilePlan("training", (25, 15)), FilePlan("training", (7,)), FilePlan("validation", (13,))]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with sequences of 60 customers and an untrained model for them."""
    return planted_root(tmp_path_factory.mktemp("embed") / "root", PLANS)


@pytest.fixture
def config(built: Path, tmp_path: Path) -> Config:
    """A copy of the root for one test."""
    shutil.copytree(built, tmp_path / "root")
    return config_of(tmp_path / "root")


def config_of(root: Path, **embed: int) -> Config:
    overlay = root.parent / "embed.yaml"
    overlay.write_text(f"root: {root}\nembed: {embed or {'batch_size': 16}}\nmodel: {{embedding_size: 8}}\n")
    return load_config([OVERLAY, overlay])


def direct_vectors(root: Path, *, version: str | None = None) -> dict[str, NDArray[np.float32]]:
    """Customer -> vector, by the encoder itself (None: the champion's), one customer at a time."""
    folder = sequences_folder(root, AS_OF)
    encoder = load_encoder(checkpoint_folder(root, version or champion_of(root)))
    vectors = {}
    for file in read_manifest(folder).files:
        for row in pq.read_table(folder / file.path).to_pylist():
            columns = {name: np.asarray([row[name]]) for name in encoder.columns}
            vectors[row["customer_id"]] = encoder.encode(columns, AS_OF_US)[0]
    return vectors


def same_vectors(found: dict[str, list[float]], wanted: dict[str, NDArray[np.float32]]) -> None:
    assert found.keys() == wanted.keys()
    for customer, vector in wanted.items():
        np.testing.assert_allclose(np.asarray(found[customer]), vector, atol=1e-5, err_msg=customer)


def test_every_customer_is_scored_once_as_the_encoder_would(spark: SparkSession, config: Config) -> None:
    summary = embed_customers(spark, config, AS_OF)

    rows = read_table(spark, EMBEDDINGS, config.root).collect()
    assert (summary.rows_out, len(rows)) == (60, 60)
    same_vectors({row["customer_id"]: row["embedding"] for row in rows}, direct_vectors(Path(config.root)))
    newest = {}
    folder = sequences_folder(config.root, AS_OF)
    for file in read_manifest(folder).files:
        for row in pq.read_table(folder / file.path).to_pylist():
            newest[row["customer_id"]] = (row["num_events"], max(row["event_times"]))
    for row in rows:
        num_events, micros = newest[row["customer_id"]]
        assert (row["num_events"], round(row["last_event_time"].timestamp() * 1e6)) == (num_events, micros)
    (model_version,) = {row["model_version"] for row in rows}
    assert {row["run_id"] for row in rows} == {next(iter(rows))["run_id"]}
    assert model_version in rows[0]["run_id"]

    again = embed_customers(spark, config, AS_OF)
    assert not again.changed
    assert last_commit_notes(spark, EMBEDDINGS, config.root)["version"] == 0


def test_onnx_runtime_scores_as_torch_does(spark: SparkSession, config: Config) -> None:
    """The ONNX file is another model's, under this model's name: so it is what the vectors are made with."""
    root = Path(config.root)
    other = save_untrained(root, read_manifest(sequences_folder(config.root, AS_OF)), seed=2)
    folders = {version: checkpoint_folder(root, version) for version in (other, champion_of(root))}
    onnx_encoder(folders[other])
    about = json.loads((folders[other] / "encoder.json").read_text())
    (folders[champion_of(root)] / "encoder.onnx").write_bytes((folders[other] / "encoder.onnx").read_bytes())
    about |= {"model_version": champion_of(root)}
    (folders[champion_of(root)] / "encoder.json").write_text(json.dumps(about))
    of_onnx = config.model_copy(update={"embed": config.embed.model_copy(update={"runtime": "onnx"})})
    assert embed_customers(spark, of_onnx, AS_OF).rows_out == 60

    rows = read_table(spark, EMBEDDINGS, config.root).collect()
    expected = direct_vectors(root, version=other)
    same_vectors({row["customer_id"]: row["embedding"] for row in rows}, expected)


@pytest.mark.parametrize(("batch_size", "tasks_a_core"), [(1, 4), (7, 1), (1000, 1)])
def test_f74_vectors_do_not_depend_on_batch_size_or_tasks(
    spark: SparkSession, built: Path, batch_size: int, tasks_a_core: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "TASKS_A_CORE", tasks_a_core)
    folder = sequences_folder(built, AS_OF)
    (checkpoint,) = [path for path in (built / "checkpoints").iterdir() if path.is_dir()]
    how = {"model_version": checkpoint.name, "as_of_us": AS_OF_US, "batch_size": batch_size, "threads": 1}
    how |= {"runtime": "torch"}
    frame = score.scored_customers(spark, folder, read_manifest(folder), checkpoint=checkpoint, **how)
    scored = frame.collect()

    assert frame.rdd.getNumPartitions() == min(4, tasks_a_core * spark.sparkContext.defaultParallelism)
    assert len(scored) == 60
    same_vectors({row["customer_id"]: row["embedding"] for row in scored}, direct_vectors(built))


def test_another_model_is_another_run(spark: SparkSession, config: Config) -> None:
    first = embed_customers(spark, config, AS_OF)
    challenger = save_untrained(Path(config.root), read_manifest(sequences_folder(config.root, AS_OF)), seed=2)
    second = embed_customers(spark, config, AS_OF, model_version=challenger)

    assert second.changed
    assert first.notes != second.notes


def changed_manifest(root: str, **changes: object) -> None:
    folder = sequences_folder(root, AS_OF)
    manifest = read_manifest(folder).model_dump() | changes
    write_manifest(SequenceManifest.model_validate(manifest), folder)


def another_vocabulary(config: Config) -> None:
    changed_manifest(config.root, vocabulary_version="another")


def another_scaling(config: Config) -> None:
    manifest = read_manifest(sequences_folder(config.root, AS_OF)).model_dump()
    manifest["scaling"]["amount"]["mean"] += 1
    changed_manifest(config.root, scaling=manifest["scaling"])


def another_layout(config: Config) -> None:
    manifest = read_manifest(sequences_folder(config.root, AS_OF)).model_dump()
    changed_manifest(config.root, layout=manifest["layout"] | {"numerical": ("refund", "amount")})


def another_byte(config: Config) -> None:
    (weights,) = Path(config.root).glob("checkpoints/*/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (another_vocabulary, "vocabulary_version: model planted, data another"),
        (another_scaling, "scaling.amount: model"),
        (another_layout, r"layout.numerical: model \(amount, refund\), data \(refund, amount\)"),
        (another_byte, "weights.safetensors: expected sha256"),
    ],
)
def test_f17_f71_what_does_not_belong_together_is_refused_and_nothing_is_written(
    spark: SparkSession, config: Config, change: Callable[[Config], None], complaint: str
) -> None:
    change(config)

    with pytest.raises(UnsafeError, match=complaint) as error:
        embed_customers(spark, config, AS_OF)

    assert error.value.exit_code == 5
    assert not (Path(config.root) / "embeddings").exists()


def test_a_customer_lost_between_manifest_and_table_fails_the_run(spark: SparkSession, config: Config) -> None:
    folder = sequences_folder(config.root, AS_OF)
    files = read_manifest(folder).model_dump()["files"]
    files[0]["rows"] += 1
    changed_manifest(config.root, files=files)

    with pytest.raises(CasprError, match=r"61 customers expected, \(rows, distinct\) are"):
        embed_customers(spark, config, AS_OF)


def test_no_sequences_or_no_model_is_said_clearly(spark: SparkSession, config: Config) -> None:
    with pytest.raises(CasprError, match="no sequences here; run build_sequences"):
        embed_customers(spark, config, datetime(2025, 1, 1, tzinfo=UTC))
    (Path(config.root) / "checkpoints" / "aliases.json").unlink()
    with pytest.raises(CasprError, match="no model yet; run pretrain_model first"):
        embed_customers(spark, config, AS_OF)
