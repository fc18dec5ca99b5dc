"""A customer whose sequence cannot be encoded is named and left out; the others are scored; too many stop the run."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import GateError
from caspr_spark.manifest import SequenceManifest, read_manifest, sequences_folder, write_manifest
from caspr_spark.runs import embedding_run_id
from caspr_spark.session import local_frame
from caspr_spark.tables import read_table, table_exists, write_table
from pipelines.embed_customers import embed_customers
from pipelines.publish_embeddings import publish_embeddings
from schemas.embeddings import CUSTOMER_EMBEDDINGS, EMBEDDINGS, UNSCORED
from tests.embed.planted_root import planted_root
from tests.embed.test_embed_customers import config_of, direct_vectors, same_vectors
from tests.pretrain.planted import AS_OF, AS_OF_US, FilePlan
from tests.publish.conftest import write_run

NUM_CUSTOMERS = 50
POISONED = {  # customer -> what is wrong with the sequence, what is said of it
    "c3": ({"num_events": 0}, "num_events must be 1 to 16, found 0 to 1"),
    "c4": ({"categorical": [99] * 32}, "ids go from 0 to 8, found 0 to 99"),
    "c17": ({"event_times": [AS_OF_US] * 16}, "an event is not older than as_of"),
    "c30": ({"numerical": [1.0]}, "column 'numerical': expected 32 values a customer, found 1"),
    "c49": ({"sets": None}, "column 'sets': expected 48 values a customer, found 0"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sequences of 50 customers, five of them damaged."""
    root = planted_root(tmp_path / "root", [FilePlan("training", (NUM_CUSTOMERS,))])
    (file,) = sequences_folder(root, AS_OF).glob("*.parquet")
    rows = pq.read_table(file)
    poisoned = [row | POISONED.get(row["customer_id"], ({}, ""))[0] for row in rows.to_pylist()]
    pq.write_table(pa.Table.from_pylist(poisoned, rows.schema), file)
    return root


def with_limit(root: Path, share: float) -> Config:
    config = config_of(root)
    return config.model_copy(update={"embed": config.embed.model_copy(update={"max_failed_share": share})})


def found(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Customer -> vector, of the run in `embeddings`."""
    return {row["customer_id"]: row["embedding"] for row in read_table(spark, EMBEDDINGS, config.root).collect()}


def test_f08_a_poisoned_customer_is_named_and_the_others_are_scored_and_published(
    spark: SparkSession, root: Path
) -> None:
    sound = planted_root(root.parent / "sound", [FilePlan("training", (NUM_CUSTOMERS,))])
    config = with_limit(root, len(POISONED) / NUM_CUSTOMERS)
    summary = embed_customers(spark, config, AS_OF)

    assert (summary.rows_in, summary.rows_out) == (50, 45)
    assert summary.notes[1] == "warning: 5 customers could not be scored; `unscored` says who and why"
    wanted = {name: vector for name, vector in direct_vectors(sound).items() if name not in POISONED}
    same_vectors(found(spark, config), wanted)
    run_id = embedding_run_id(read_manifest(sequences_folder(root, AS_OF)), model_of(root))
    named = {row["customer_id"]: row for row in read_table(spark, UNSCORED, config.root).collect()}
    assert named.keys() == POISONED.keys()
    for customer, (_, complaint) in POISONED.items():
        assert complaint in named[customer]["problem"]
        assert named[customer]["run_id"] == run_id

    assert not embed_customers(spark, config, AS_OF).changed
    assert publish_embeddings(spark, config, AS_OF).rows_out == 45
    assert read_table(spark, UNSCORED, config.root).count() == len(POISONED)


def model_of(root: Path) -> str:
    (checkpoint,) = [path.name for path in (root / "checkpoints").iterdir() if path.is_dir()]
    return checkpoint


def test_f08_too_many_stop_the_run_before_it_is_published_until_they_are_allowed(
    spark: SparkSession, root: Path
) -> None:
    strict, lenient = with_limit(root, 0.09), with_limit(root, 0.1)
    for _ in range(2):  # it does not pass the second time for having been tried
        with pytest.raises(GateError, match="5 of 50 customers cannot be scored, more than") as error:
            embed_customers(spark, strict, AS_OF)
        assert error.value.exit_code == 3
        assert "  - 1 customers: UnsafeError: sequences: an event is not older than as_of" in str(error.value)
        assert not any(f"{name} " in str(error.value) for name in POISONED)  # no customer is named in a message
    assert not table_exists(spark, UNSCORED, strict.root)
    with pytest.raises(GateError, match=r"'rows_complete' .*: found 5\n"):
        publish_embeddings(spark, strict, AS_OF)

    embed_customers(spark, lenient, AS_OF)
    assert publish_embeddings(spark, lenient, AS_OF).rows_out == 45


def test_f08_a_refresh_does_not_take_an_unscored_customer_for_one_without_events(
    spark: SparkSession, root: Path
) -> None:
    config = config_of(root, batch_size=16)
    config = config.model_copy(update={"model": config.model.model_copy(update={"embedding_size": 2})})
    config = config.model_copy(update={"root": str(root.parent / "other")})
    first = write_run(spark, config, {"ann": (1, 0), "bob": (2, 0), "cid": (3, 0)}, day=1, run_id="r1")
    publish_embeddings(spark, config, first)

    as_of = write_run(spark, config, {"ann": (4, 0)}, day=2, run_id="r2", promised=2)
    folder = sequences_folder(config.root, as_of)
    touched = local_frame(spark, [("ann",), ("bob",), ("cid",)], "customer_id string")
    touched.coalesce(1).write.parquet(str(folder / "touched-1"))
    manifest = read_manifest(folder).model_dump() | {"touched": "touched-1", "lineage": {"touched": 3}}
    write_manifest(SequenceManifest.model_validate(manifest), folder)
    unscored = local_frame(spark, [("bob", as_of, "m1", "r2", "poison")], UNSCORED.ddl.replace(" not null", ""))
    write_table(unscored, UNSCORED, config.root)

    assert publish_embeddings(spark, config, as_of).notes == ("1 customers without any event removed",)
    latest = read_table(spark, CUSTOMER_EMBEDDINGS, config.root).collect()
    assert sorted((row["customer_id"], row["run_id"]) for row in latest) == [("ann", "r2"), ("bob", "r1")]
