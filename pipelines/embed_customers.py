"""Step 4: sequences and a checkpoint -> embeddings."""

from datetime import datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.disk import kept_on_disk
from caspr_spark.embed.score import scored_customers
from caspr_spark.errors import CasprError, GateError
from caspr_spark.manifest import SequenceManifest, read_manifest, sequences_folder
from caspr_spark.model.onnx_encoder import load_onnx_encoder, onnx_encoder
from caspr_spark.model.scoring import load_encoder
from caspr_spark.registry import checkpoint_folder
from caspr_spark.runs import embedding_run_id
from caspr_spark.tables import empty_table, last_commit_notes, read_table, table_exists, write_table
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS, UNSCORED


def embed_customers(
    spark: SparkSession, config: Config, as_of: datetime, *, model_version: str | None = None
) -> Summary:
    """Score every customer of the sequences as of `as_of` once and put the vectors into `embeddings`.

    `model_version`: of the checkpoint; None for the champion. Up to `embed.max_failed_share` of the customers may have
    a sequence that cannot be encoded; they are named in `unscored`, and have no vector in this run.

    Raises:
        UnsafeError: the model belongs to another vocabulary or layout, or its bytes were changed.
        GateError: more customers than that cannot be scored.
        CasprError: customers were lost or doubled.
    """
    manifest = read_manifest(sequences_folder(config.root, as_of))
    model_version = model_version or champion_of(config.root)
    run_id = embedding_run_id(manifest, model_version)
    if _in_history(spark, config.root, run_id):
        return Summary("embed", manifest.rows, manifest.rows, changed=False)

    scored = _scored(spark, config, as_of, manifest, model_version)
    is_new = last_commit_notes(spark, EMBEDDINGS, config.root).get("made_from") != run_id
    if is_new:
        embeddings = scored.where("problem is null").select(
            "customer_id",
            "embedding",
            F.lit(as_of).alias("as_of"),
            "last_event_time",
            "num_events",
            F.lit(model_version).alias("model_version"),
            F.lit(run_id).alias("run_id"),
        )
        write_table(embeddings, EMBEDDINGS, config.root, made_from=run_id)
    num_failed = _account_for_all(spark, config, scored, run=(as_of, model_version, run_id), num_rows=manifest.rows)
    notes = [f"run {run_id}"]
    if num_failed:
        notes.append(f"warning: {num_failed:,} customers could not be scored; `{UNSCORED.name}` says who and why")
    return Summary("embed", manifest.rows, manifest.rows - num_failed, tuple(notes), changed=is_new)


def _scored(
    spark: SparkSession, config: Config, as_of: datetime, manifest: SequenceManifest, model_version: str
) -> DataFrame:
    """What the model makes of the sequences, as `scored_customers`."""
    checkpoint = checkpoint_folder(config.root, model_version).resolve()
    encoder = load_encoder(checkpoint)
    encoder.check_fits(manifest)
    if config.embed.runtime == "onnx":
        onnx_encoder(checkpoint)
        load_onnx_encoder(checkpoint)  # what is missing is said here, not by a task
    if not manifest.files:  # of all whom a refresh looked at, nobody has an event any more
        return empty_table(spark, EMBEDDINGS).withColumn("problem", F.lit(None).cast("string"))
    return scored_customers(
        spark,
        sequences_folder(config.root, as_of),
        manifest,
        checkpoint=checkpoint,
        model_version=model_version,
        as_of_us=round(as_of.timestamp() * 1_000_000),
        batch_size=config.embed.batch_size,
        threads=config.embed.threads,
        runtime=config.embed.runtime,
    )


def _account_for_all(
    spark: SparkSession, config: Config, scored: DataFrame, *, run: tuple[datetime, str, str], num_rows: int
) -> int:
    """Find every customer of the sequences in `embeddings` or put it into `unscored`; how many are there."""
    embeddings = read_table(spark, EMBEDDINGS, config.root)
    counted = embeddings.agg(F.count(F.lit(1)), F.count_distinct("customer_id")).first()
    assert counted is not None  # an aggregate without groups has one row
    if tuple(counted) == (num_rows, num_rows):
        return 0
    as_of, model_version, run_id = run
    with kept_on_disk() as keep:
        failed = keep(scored.where("problem is not null").select("customer_id", "problem"))
        num_failed = failed.count()
        if counted[0] != counted[1] or counted[0] + num_failed != num_rows:
            raise CasprError(
                f"{config.root}/embeddings: {num_rows} customers expected, (rows, distinct) are {tuple(counted)}, and "
                f"{num_failed} could not be scored"
            )
        if num_failed > config.embed.max_failed_share * num_rows:
            reasons = failed.groupBy("problem").count().orderBy(F.desc("count"), "problem").limit(5).collect()
            raise GateError(
                f"{config.root}/sequences: {num_failed:,} of {num_rows:,} customers cannot be scored, more than "
                f"embed.max_failed_share = {config.embed.max_failed_share:g}; what was published before is still "
                "served. Build the sequences again, or train a model for them.\n"
                + "\n".join(f"  - {row['count']:,} customers: {row['problem']}" for row in reasons)
            )
        unscored = failed.select(
            "customer_id",
            F.lit(as_of).alias("as_of"),
            F.lit(model_version).alias("model_version"),
            F.lit(run_id).alias("run_id"),
            "problem",
        )
        write_table(unscored.coalesce(1), UNSCORED, config.root, mode="append", made_from=run_id, once=run_id)
    return num_failed


def _in_history(spark: SparkSession, root: str, run_id: str) -> bool:
    if not table_exists(spark, CUSTOMER_EMBEDDING_HISTORY, root):
        return False
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, root)
    return not history.where(F.col("run_id") == run_id).isEmpty()
