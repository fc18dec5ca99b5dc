"""Step 5: embeddings -> customer_embedding_history (all runs) -> the model's latest vectors -> runs.

The champion's latest vectors are `customer_embeddings`; those of another model lie in a table of its own.
"""

from dataclasses import replace
from datetime import datetime

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.crash_points import crash_point
from caspr_spark.errors import CasprError
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.publish.feature_table import merged_into_latest
from caspr_spark.publish.gates import vector_health
from caspr_spark.registry import checkpoint_folder, read_model
from caspr_spark.runs import Run, embedding_run_id, is_recorded, record_run
from caspr_spark.tables import (
    committed_with,
    create_table,
    empty_table,
    last_commit_notes,
    read_table,
    table_exists,
    table_path,
    table_version,
    write_table,
)
from pipelines.latest_vectors import latest_table, latest_vectors, serve_champion
from pipelines.publish_hook import call_hook, is_asked_for, note_published
from pipelines.summary import Summary
from pipelines.vector_gate import take_vectors
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS, UNSCORED
from schemas.runs import RUNS


def publish_embeddings(
    spark: SparkSession, config: Config, as_of: datetime, *, model_version: str | None = None
) -> Summary:
    """Publish the run in `embeddings`: history, then the model's latest table, then the run's row in `runs`.

    `model_version`: whose run; None for the champion's.
    Customers whom a refresh looked at and who have no event any more lose their row in the latest table. The same run
    again commits nothing. Afterwards `publish.after_command` and `after_file` are told; they cannot undo it.

    Raises:
        GateError: the run's vectors are not fit to be read; both tables are untouched.
        CasprError: `embeddings` holds the run of another as_of or model, and this one was never published.
    """
    model_version = model_version or champion_of(config.root)
    serve_champion(spark, config.root)
    table = latest_table(config.root, model_version)
    before = _versions(spark, config.root, table)
    run, rows, notes = _run_to_publish(spark, config, as_of, model_version)
    if run is None:
        return Summary("publish", 0, 0, ("no customer to publish", *notes), changed=False)
    create_table(spark, table, config.root)
    gone = _gone(spark, config, run, rows)
    run = replace(run, num_removed=gone.count())
    numbers = {"rows": run.num_customers, "run": run.as_json()}

    crash_point("before_history")
    write_table(
        rows,
        CUSTOMER_EMBEDDING_HISTORY,
        config.root,
        mode="append",
        made_from=run.run_id,
        numbers=numbers,
        once=run.run_id,
    )
    crash_point("after_history")
    latest = DeltaTable.forPath(spark, table_path(table, config.root))
    with committed_with(spark, made_from=run.run_id, numbers=numbers, once=run.run_id):
        merged_into_latest(rows, gone, latest, run).execute()
    if is_asked_for(config) and not is_recorded(spark, run.run_id, config.root):
        note_published(spark, config, run, table)
    crash_point("after_latest")
    record_run(spark, run, config.root)
    crash_point("after_runs")
    notes += [f"{run.num_removed:,} customers without any event removed"] if run.num_removed else []
    changed = _versions(spark, config.root, table) != before
    notes += call_hook(spark, config, run) if is_asked_for(config) else []
    return Summary("publish", run.num_customers, run.num_customers, tuple(notes), changed=changed)


def _run_to_publish(
    spark: SparkSession, config: Config, as_of: datetime, model_version: str
) -> tuple[Run | None, DataFrame, list[str]]:
    """The run of a model as of a time and its rows: those in `embeddings`, or those that history has already.

    Of those in `embeddings`, what the gate says of them, too.
    """
    rows = read_table(spark, EMBEDDINGS, config.root)
    made_from = last_commit_notes(spark, EMBEDDINGS, config.root).get("made_from", "")
    size = read_model(checkpoint_folder(config.root, model_version)).section.embedding_size
    health = vector_health(rows, size=size).first()
    assert health is not None  # an aggregate without groups has one row
    run_id, num_rows = health["run_id"] or made_from, int(health["num_rows"])
    folder = sequences_folder(config.root, as_of)
    if (first := rows.select("model_version").first()) is not None:
        found = (health["as_of_microseconds"], first["model_version"])
        is_another = found != (round(as_of.timestamp() * 1_000_000), model_version)
    else:
        is_another = run_id != embedding_run_id(read_manifest(folder), model_version)
    if is_another:
        run_id, rows = _recorded_run(spark, config.root, as_of, model_version)
        num_rows = rows.count()
    manifest = read_manifest(folder)
    notes: list[str] = []
    if not is_another:
        num_promised = manifest.rows - _unscored(spark, config.root, run_id).count()
        notes = take_vectors(
            spark,
            config,
            as_of,
            health=health.asDict(),
            manifest=manifest,
            num_promised=num_promised,
            model_version=model_version,
        )
    if not num_rows and manifest.touched is None:
        return None, rows, notes
    run = Run(
        run_id=run_id,
        as_of=as_of,
        kind=manifest.kind,
        model_version=model_version,
        previous_run_id=manifest.previous_runs.get(model_version) or None,
        events_version=int(manifest.lineage.get("events_version", -1)),
        profiles_version=int(manifest.lineage.get("profiles_version", -1)),
        num_customers=num_rows,
        num_removed=0,
    )
    return run, rows, notes


def _gone(spark: SparkSession, config: Config, run: Run, rows: DataFrame) -> DataFrame:
    """customer_id of the customers in the latest table that the run looked at and found without any event."""
    latest = latest_vectors(spark, config.root, run.model_version).select("customer_id")
    folder = sequences_folder(config.root, run.as_of)
    manifest = read_manifest(folder)
    if manifest.touched is None or manifest.lineage["touched"] == run.num_customers:
        return latest.limit(0)
    touched = spark.read.parquet(str((folder / manifest.touched).resolve()))
    with_events = rows.select("customer_id").unionAll(_unscored(spark, config.root, run.run_id))
    return latest.join(F.broadcast(touched), on="customer_id", how="left_semi").join(
        with_events, on="customer_id", how="left_anti"
    )


def _unscored(spark: SparkSession, root: str, run_id: str) -> DataFrame:
    """customer_id of those who have events and no vector in this run, as their sequences could not be encoded."""
    if not table_exists(spark, UNSCORED, root):
        return empty_table(spark, UNSCORED).select("customer_id")
    return read_table(spark, UNSCORED, root).where(F.col("run_id") == run_id).select("customer_id")


def _recorded_run(spark: SparkSession, root: str, as_of: datetime, model_version: str) -> tuple[str, DataFrame]:
    """run_id and rows of the run that history holds of a model and as_of whose `embeddings` were overwritten since.

    Whoever was killed between history and latest then finishes from history; otherwise nothing is left to do.
    """
    if table_exists(spark, CUSTOMER_EMBEDDING_HISTORY, root):
        history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, root)
        at_as_of = history.where((F.col("as_of") == F.lit(as_of)) & (F.col("model_version") == model_version))
        if (last := at_as_of.agg(F.max("run_id").alias("run_id")).first()) is not None and last["run_id"] is not None:
            return last["run_id"], at_as_of.where(F.col("run_id") == last["run_id"])
    raise CasprError(
        f"{table_path(EMBEDDINGS, root)}: expected the run as of {as_of.isoformat()} of model {model_version}, found "
        "another; run embed_customers for this as_of and model first"
    )


def _versions(spark: SparkSession, root: str, latest: Contract) -> list[int]:
    """Newest version of each table that publishing writes."""
    return [table_version(spark, contract, root) for contract in (CUSTOMER_EMBEDDING_HISTORY, latest, RUNS)]
