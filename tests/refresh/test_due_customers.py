"""Who is looked at by the next refresh, beside those whose rows changed."""

from pathlib import Path

from pyspark.sql import SparkSession

from caspr_spark.config_file import load_config
from caspr_spark.disk import kept_on_disk
from caspr_spark.runs import run_before
from caspr_spark.tables import create_table
from pipelines.build_sequences import due_customers, sequence_versions
from pipelines.contracts import event_contract, profile_contract
from pipelines.publish_embeddings import publish_embeddings
from tests.publish.conftest import overlays_below, write_run


def test_f63_whoever_a_full_run_left_out_is_looked_at_though_the_vector_is_as_of_the_same_time(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Bob has a vector of the first run; the second, a full one as of the same time, found no event of his."""
    config = load_config(overlays_below(tmp_path))
    for contract in (event_contract(config), profile_contract(config)):
        create_table(spark, contract, config.root)
    as_of = write_run(spark, config, {"ann": (1, 0), "bob": (0.5, -1)}, day=1, run_id="r1")
    publish_embeddings(spark, config, as_of)
    write_run(spark, config, {"ann": (2, 0)}, day=1, run_id="r2")
    publish_embeddings(spark, config, as_of)
    full = run_before(spark, config.root, as_of=as_of, model_version="m1")
    assert full is not None
    assert (full.run_id, full.kind) == ("r2", "full")

    with kept_on_disk() as keep:
        due = due_customers(spark, config, as_of, {"m1": full}, sequence_versions(spark, config), keep)
        assert {model: [row["customer_id"] for row in rows.collect()] for model, rows in due.items()} == {"m1": ["bob"]}
