"""Two models published side by side, a switch between them, and back: what each kind of reader sees."""

import fcntl
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest
from delta.tables import DeltaTable
from deltalake import DeltaTable as OpenTable
from pyspark.sql import SparkSession

from caspr_spark.aliases import Aliases, read_aliases
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.errors import ConfigError, UnsafeError
from caspr_spark.reader import read_as_of, read_latest
from caspr_spark.registry import TRAINING_LOCK, checkpoint_folder
from caspr_spark.tables import last_commit_notes, read_table, table_path, table_version
from pipelines import latest_vectors
from pipelines.latest_vectors import serve_champion
from pipelines.maintain import maintain
from pipelines.models import model_facts, model_table, roll_back, set_challenger, set_champion
from pipelines.publish_embeddings import publish_embeddings
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, latest_of
from tests.models.registered import register
from tests.publish.conftest import overlays_below, write_run

M1 = {"ann": [1.0, 0.0], "bob": [2.0, 0.0]}
M2 = {"ann": [0.0, 1.0], "bob": [0.0, 2.0]}
VECTORS = {"m1": {"ann": (1, 0), "bob": (2, 0)}, "m2": {"ann": (0, 1), "bob": (0, 2)}}


@pytest.fixture(scope="module")
def built(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which m1 is champion, m2 challenger, and both have published a run as of 1 October."""
    config = load_config(overlays_below(tmp_path_factory.mktemp("models")))
    for model in ("m1", "m2"):
        register(config.root, model)
        publish(spark, config, model, day=1)
    return Path(config.root)


@pytest.fixture
def config(built: Path, tmp_path: Path) -> Config:
    """A copy of the root for one test."""
    config = load_config(overlays_below(tmp_path))
    shutil.copytree(built, config.root)
    return config


def publish(spark: SparkSession, config: Config, model: str, *, day: int, vectors: Any = None) -> None:
    run_id = f"{model}-{day}"
    as_of = write_run(spark, config, vectors or VECTORS[model], day=day, run_id=run_id, model=model)
    assert publish_embeddings(spark, config, as_of, model_version=model).changed


def bytes_changed(config: Config, model: str = "m2") -> None:
    (checkpoint_folder(config.root, model) / "weights.safetensors").write_bytes(b"weightz")


def seen(spark: SparkSession, config: Config, contract: Contract = CUSTOMER_EMBEDDINGS) -> dict[str, list[float]]:
    """Customer -> vector, after four readers have agreed on it."""
    path = table_path(contract, config.root)
    arrow = OpenTable(path).to_pyarrow_table()
    rows = duckdb.sql("select customer_id, embedding from arrow").fetchall()
    found = {
        "spark": [
            tuple(row) for row in read_table(spark, contract, config.root).select("customer_id", "embedding").collect()
        ],
        "deltalake": [(row["customer_id"], row["embedding"]) for row in arrow.to_pylist()],
        "polars": polars.read_delta(path).select("customer_id", "embedding").rows(),
        "duckdb": rows,
    }
    for reader, of_reader in found.items():
        assert sorted(of_reader) == sorted(found["spark"]), reader
    assert len({customer for customer, _ in rows}) == len(rows)
    return dict(rows)


def pinned(config: Config) -> list[Any]:
    """What readers who have chosen a model get."""
    labels = polars.DataFrame({"customer_id": ["ann"], "event_time": [datetime(2017, 10, 9, tzinfo=UTC)]})
    return [
        frame
        for model in ("m1", "m2")
        for frame in (
            read_latest(config.root, model_version=model),
            read_as_of(config.root, labels, model_version=model, as_="arrow"),
        )
    ]


def inodes(config: Config, contract: Contract) -> set[int]:
    folder = Path(table_path(contract, config.root))
    return {(folder / name).stat().st_ino for name in OpenTable(str(folder)).to_pyarrow_dataset().files}


def test_f72_a_challenger_is_published_and_no_reader_notices(spark: SparkSession, config: Config) -> None:
    assert seen(spark, config) == M1
    assert seen(spark, config, latest_of("m2")) == M2
    assert read_table(spark, CUSTOMER_EMBEDDING_HISTORY, config.root).count() == 4
    version, before = table_version(spark, CUSTOMER_EMBEDDINGS, config.root), pinned(config)
    publish(spark, config, "m2", day=2, vectors={"ann": (0, 7)})
    assert table_version(spark, CUSTOMER_EMBEDDINGS, config.root) == version
    assert seen(spark, config) == M1
    assert seen(spark, config, latest_of("m2")) == M2 | {"ann": [0, 7]}
    assert pinned(config)[:2] == before[:2]


def test_f73_a_switch_and_its_rollback_write_no_vector(spark: SparkSession, config: Config) -> None:
    before, history = pinned(config), table_version(spark, CUSTOMER_EMBEDDING_HISTORY, config.root)
    files = {model: inodes(config, table) for model, table in (("m1", CUSTOMER_EMBEDDINGS), ("m2", latest_of("m2")))}
    version = table_version(spark, CUSTOMER_EMBEDDINGS, config.root)

    assert set_champion(spark, config, "m2").notes == ("champion: m2 (was m1)", "challenger: m1 (was m2)")
    assert read_aliases(config.root) == Aliases(champion="m2", challenger="m1", former_champions=("m1",))
    assert seen(spark, config) == M2
    assert inodes(config, CUSTOMER_EMBEDDINGS) == files["m2"]
    assert table_version(spark, CUSTOMER_EMBEDDINGS, config.root) == version + 1
    assert pinned(config) == before
    assert not set_champion(spark, config, "m2").changed

    notes = roll_back(spark, config).notes
    assert notes[:2] == ("champion: m1 (was m2)", "challenger: m2 (was m1)")
    assert seen(spark, config) == M1
    assert inodes(config, CUSTOMER_EMBEDDINGS) == files["m1"]
    assert table_version(spark, CUSTOMER_EMBEDDINGS, config.root) == version + 2
    assert pinned(config) == before
    assert table_version(spark, CUSTOMER_EMBEDDING_HISTORY, config.root) == history
    with pytest.raises(ConfigError, match="no switch to take back"):
        roll_back(spark, config)


@pytest.mark.slow
def test_f72_publishing_goes_on_after_a_switch(spark: SparkSession, config: Config) -> None:
    set_champion(spark, config, "m2")
    publish(spark, config, "m2", day=2, vectors={"ann": (0, 7)})
    publish(spark, config, "m1", day=2, vectors={"bob": (8, 0), "cid": (9, 0)})
    assert seen(spark, config) == M2 | {"ann": [0, 7]}
    assert seen(spark, config, latest_of("m1")) == M1 | {"bob": [8, 0], "cid": [9, 0]}
    roll_back(spark, config)
    assert seen(spark, config) == M1 | {"bob": [8, 0], "cid": [9, 0]}
    set_champion(spark, config, "m2")
    assert seen(spark, config) == M2 | {"ann": [0, 7]}


def test_the_change_feed_tells_a_switch(spark: SparkSession, config: Config) -> None:
    set_champion(spark, config, "m2")
    version = table_version(spark, CUSTOMER_EMBEDDINGS, config.root)
    feed = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", version)
    rows = feed.load(table_path(CUSTOMER_EMBEDDINGS, config.root)).select(
        "_change_type", "customer_id", "model_version"
    )
    assert sorted(tuple(row) for row in rows.collect()) == [
        ("delete", "ann", "m1"),
        ("delete", "bob", "m1"),
        ("insert", "ann", "m2"),
        ("insert", "bob", "m2"),
    ]
    earlier = read_table(spark, CUSTOMER_EMBEDDINGS, config.root, version=version - 1)
    assert {row["model_version"] for row in earlier.collect()} == {"m1"}


@pytest.mark.slow
def test_neither_table_can_vacuum_the_others_files_away(spark: SparkSession, config: Config) -> None:
    set_champion(spark, config, "m2")
    before = spark.conf.get("spark.databricks.delta.retentionDurationCheck.enabled", "true")
    spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    try:
        for contract in (latest_of("m2"), latest_of("m1"), CUSTOMER_EMBEDDINGS):
            table = DeltaTable.forPath(spark, table_path(contract, config.root))
            table.optimize().executeCompaction()
            table.vacuum(0)
    finally:
        spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", str(before))
    assert seen(spark, config) == M2
    roll_back(spark, config)
    assert seen(spark, config) == M1


class KilledError(Exception):
    """In the place of a SIGKILL: nothing behind it is run."""


@pytest.mark.parametrize(
    ("point", "served"), [pytest.param("before_switch", M1, marks=pytest.mark.slow), ("after_switch", M2)]
)
def test_f73_a_switch_that_was_killed_has_not_begun_or_is_finished_by_the_next_writer(
    spark: SparkSession, config: Config, monkeypatch: pytest.MonkeyPatch, point: str, served: Any
) -> None:
    def killed_at(name: str) -> None:
        if name == point:
            raise KilledError

    monkeypatch.setattr(latest_vectors, "crash_point", killed_at)
    with pytest.raises(KilledError):
        set_champion(spark, config, "m2")
    monkeypatch.undo()
    assert seen(spark, config) == M1
    champion = read_aliases(config.root).champion
    assert champion is not None
    publish(spark, config, champion, day=2, vectors=VECTORS[champion])  # nothing of the other model may get in
    assert seen(spark, config) == served
    if point == "before_switch":
        publish(spark, config, "m2", day=2)
        set_champion(spark, config, "m2")
        assert seen(spark, config) == M2
    else:
        roll_back(spark, config)
        assert seen(spark, config) == M1


def test_a_model_that_is_staler_than_the_champion_or_was_never_scored_does_not_become_it(
    spark: SparkSession, config: Config
) -> None:
    publish(spark, config, "m1", day=2, vectors={"ann": (4, 0)})
    with pytest.raises(UnsafeError, match=r"m2 has vectors as of 2017-10-01.*, the champion as of 2017-10-02") as error:
        set_champion(spark, config, "m2")
    assert error.value.exit_code == 5
    register(config.root, "m3")
    with pytest.raises(UnsafeError, match=r"m3 has vectors none"):
        set_champion(spark, config, "m3")
    assert seen(spark, config) == M1 | {"ann": [4, 0]}


def test_f17_a_damaged_model_gets_no_alias(spark: SparkSession, config: Config) -> None:
    before = read_aliases(config.root)
    bytes_changed(config)
    for change in (lambda: set_champion(spark, config, "m2"), lambda: set_challenger(config, "m2")):
        with pytest.raises(UnsafeError, match=r"weights.safetensors: expected sha256"):
            change()
    assert read_aliases(config.root) == before
    assert seen(spark, config) == M1


def test_the_challenger_is_chosen_and_dropped(spark: SparkSession, config: Config) -> None:
    register(config.root, "m3")
    assert set_challenger(config, "m2").notes == ("challenger: m2 (was m3)",)
    assert set_challenger(config, None).notes == ("challenger: none (was m2)",)
    assert read_aliases(config.root).scored == ("m1",)
    assert not set_challenger(config, None).changed
    with pytest.raises(ConfigError, match="m1 is the champion"):
        set_challenger(config, "champion")


def test_models_are_listed_and_shown(spark: SparkSession, config: Config) -> None:
    listed = model_table(spark, config)[["model", "alias", "customers", "vectors as of"]]
    assert listed.to_dict("records") == [
        {"model": "m2", "alias": "challenger", "customers": "9", "vectors as of": "2017-10-01 00:00:00"},
        {"model": "m1", "alias": "champion", "customers": "9", "vectors as of": "2017-10-01 00:00:00"},
    ]
    facts = dict(model_facts(spark, config, "challenger").itertuples(index=False, name=None))
    assert (facts["model_version"], facts["newest run"], facts["validation_loss"]) == ("m2", "m2-1", "1.1")
    assert facts["settings.seed"] == "1"
    bytes_changed(config)
    facts = dict(model_facts(spark, config, "m2").itertuples(index=False, name=None))
    assert "the file was changed or cut" in facts["bytes"]


def test_an_empty_table_follows_a_switch_too(spark: SparkSession, config: Config) -> None:
    DeltaTable.forPath(spark, table_path(CUSTOMER_EMBEDDINGS, config.root)).delete()
    set_champion(spark, config, "m2")
    assert seen(spark, config) == M2
    roll_back(spark, config)
    assert seen(spark, config) == {}
    assert last_commit_notes(spark, CUSTOMER_EMBEDDINGS, config.root)["numbers"] == {"model_version": "m1"}
    serve_champion(spark, config.root)
    assert seen(spark, config) == {}


@pytest.mark.slow
def test_maintain_keeps_the_models_that_are_needed(spark: SparkSession, config: Config) -> None:
    set_champion(spark, config, "m2")
    for version in ("m3", "m4", "m5"):
        register(config.root, version)
    kept = config.model_copy(update={"maintain": config.maintain.model_copy(update={"keep_models": 1})})
    with (Path(config.root) / "checkpoints" / TRAINING_LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "a model is being trained: sequences and models were left alone" in maintain(spark, kept).notes
    assert len(model_table(spark, config)) == 5
    notes = maintain(spark, kept).notes
    # m2 is champion, m5 challenger and newest, m1 the champion before
    assert [note for note in notes if note.startswith("model")] == [
        "model m3 deleted; its card and its history stay",
        "model m4 deleted; its card and its history stay",
    ]
    assert sorted(path.name for path in checkpoint_folder(config.root, "m3").iterdir()) == ["model_card.json"]
    assert set(model_table(spark, config)["model"]) == {"m1", "m2", "m5"}
    roll_back(spark, config)
    assert seen(spark, config) == M1
