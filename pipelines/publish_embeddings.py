"""Step 5: embeddings -> customer_embedding_history (all runs) -> customer_embeddings (latest per customer)."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.crash_points import crash_point
from caspr_spark.errors import CasprError, GateError
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.publish.feature_table import merged_into_latest
from caspr_spark.publish.gates import failed_checks, vector_health
from caspr_spark.tables import create_table, read_table, table_exists, table_path, write_table
from pipelines.summary import Summary
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, EMBEDDINGS

PUBLISHED = (CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS)


def publish_embeddings(spark: SparkSession, config: Config, as_of: datetime) -> Summary:
    """Publish the run in `embeddings`. The same run again commits nothing in either table.

    Raises:
        GateError: the run's vectors are not fit to be read; both tables are untouched.
        CasprError: `embeddings` holds the run of another as_of, and this one was never published.
    """
    before = _versions(spark, config.root)
    run = read_table(spark, EMBEDDINGS, config.root)
    health = vector_health(run).first()
    assert health is not None  # an aggregate without groups has one row
    run_id, num_rows = health["run_id"], int(health["num_rows"])
    if num_rows and health["as_of_microseconds"] != round(as_of.timestamp() * 1_000_000):
        run_id, run = _recorded_run(spark, config.root, as_of)
        num_rows = run.count()
    else:
        _stop_if_unfit(health, config, as_of)
    if not num_rows:
        return Summary("publish", 0, 0, ("no customer to publish",), changed=False)

    crash_point("before_history")
    numbers = {"rows": num_rows}
    write_table(
        run, CUSTOMER_EMBEDDING_HISTORY, config.root, mode="append", made_from=run_id, numbers=numbers, once=run_id
    )
    crash_point("after_history")
    create_table(spark, CUSTOMER_EMBEDDINGS, config.root)
    latest = DeltaTable.forPath(spark, table_path(CUSTOMER_EMBEDDINGS, config.root))
    with _committed_once(spark, run_id):
        merged_into_latest(run, latest).execute()
    crash_point("after_latest")
    return Summary("publish", num_rows, num_rows, changed=_versions(spark, config.root) != before)


def _stop_if_unfit(health: Row, config: Config, as_of: datetime) -> None:
    promised = read_manifest(sequences_folder(config.root, as_of)).rows
    if failures := failed_checks(health.asDict(), num_rows=promised, size=config.model.embedding_size):
        raise GateError(
            f"{table_path(EMBEDDINGS, config.root)}: the run is not fit to be published; what was published before is "
            "still served. Retrain, or embed again, then publish.\n" + "\n".join(f"  - {line}" for line in failures)
        )


def _recorded_run(spark: SparkSession, root: str, as_of: datetime) -> tuple[str, DataFrame]:
    """run_id and rows of the run that history holds of an as_of whose `embeddings` were overwritten since by another's.

    Whoever was killed between history and latest then finishes from history; otherwise nothing is left to do.
    """
    if table_exists(spark, CUSTOMER_EMBEDDING_HISTORY, root):
        history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, root)
        at_as_of = history.where(F.col("as_of") == F.lit(as_of))
        if (last := at_as_of.agg(F.max("run_id").alias("run_id")).first()) is not None and last["run_id"] is not None:
            return last["run_id"], at_as_of.where(F.col("run_id") == last["run_id"])
    raise CasprError(
        f"{table_path(EMBEDDINGS, root)}: expected the run as of {as_of.isoformat()}, found another; "
        "run embed_customers for this as_of first"
    )


@contextmanager
def _committed_once(spark: SparkSession, name: str) -> Iterator[None]:
    """A MERGE inside, made under a name that the table has seen, is skipped (Delta's transaction id)."""
    identity = {"txnAppId": name, "txnVersion": "1"}
    notes = {"spark.databricks.delta.commitInfo.userMetadata": f'{{"made_from": "{name}", "numbers": {{}}}}'}
    settings = {f"spark.databricks.delta.write.{key}": value for key, value in identity.items()} | notes
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key in settings:
            spark.conf.unset(key)


def _versions(spark: SparkSession, root: str) -> list[int]:
    """Newest version of each published table; -1 where there is none."""
    return [_version(spark, contract, root) for contract in PUBLISHED]


def _version(spark: SparkSession, contract: Contract, root: str) -> int:
    if not table_exists(spark, contract, root):
        return -1
    newest = DeltaTable.forPath(spark, table_path(contract, root)).history(1).select("version").first()
    return -1 if newest is None else int(newest["version"])
