"""Step 4: sequences and a checkpoint -> embeddings."""

from datetime import datetime

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.embed.score import scored_customers
from caspr_spark.errors import CasprError
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.model.scoring import load_encoder
from caspr_spark.registry import checkpoint_folder
from caspr_spark.runs import embedding_run_id
from caspr_spark.sequences.known import known_to
from caspr_spark.tables import empty_table, last_commit_notes, read_table, table_exists, write_table
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS


def embed_customers(
    spark: SparkSession, config: Config, as_of: datetime, *, model_version: str | None = None
) -> Summary:
    """Score every customer of the sequences as of `as_of` once and put the vectors into `embeddings`.

    `model_version`: of the checkpoint; None for the champion.

    Raises:
        UnsafeError: the model belongs to another vocabulary or layout, or its bytes were changed.
        CasprError: customers were lost or doubled.
    """
    folder = sequences_folder(config.root, as_of)
    manifest = read_manifest(folder)
    model_version = model_version or champion_of(config.root)
    run_id = embedding_run_id(manifest, model_version)
    if last_commit_notes(spark, EMBEDDINGS, config.root).get("made_from") == run_id or _in_history(
        spark, config.root, run_id
    ):
        return Summary("embed", manifest.rows, manifest.rows, changed=False)

    checkpoint = checkpoint_folder(config.root, model_version).resolve()
    encoder = load_encoder(checkpoint)
    encoder.check_fits(manifest)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(config.embed.batch_size))
    if manifest.files:
        present = spark.read.parquet(*[str((folder / file.path).resolve()) for file in manifest.files])
        scored = scored_customers(
            known_to(present, manifest.layout, encoder.manifest_requirements.layout),
            checkpoint=checkpoint,
            model_version=model_version,
            as_of_us=round(as_of.timestamp() * 1_000_000),
            threads=config.embed.threads,
        )
        embeddings = scored.select(
            "customer_id",
            "embedding",
            F.lit(as_of).alias("as_of"),
            "last_event_time",
            "num_events",
            F.lit(model_version).alias("model_version"),
            F.lit(run_id).alias("run_id"),
        )
    else:  # of all whom a refresh looked at, nobody has an event any more
        embeddings = empty_table(spark, EMBEDDINGS)
    write_table(embeddings, EMBEDDINGS, config.root, made_from=run_id)
    counted = read_table(spark, EMBEDDINGS, config.root).agg(F.count(F.lit(1)), F.count_distinct("customer_id")).first()
    if counted is None or tuple(counted) != (manifest.rows, manifest.rows):
        raise CasprError(
            f"{config.root}/embeddings: {manifest.rows} customers expected, (rows, distinct) are {counted}"
        )
    return Summary("embed", manifest.rows, manifest.rows, (f"run {run_id}",))


def _in_history(spark: SparkSession, root: str, run_id: str) -> bool:
    if not table_exists(spark, CUSTOMER_EMBEDDING_HISTORY, root):
        return False
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, root)
    return not history.where(F.col("run_id") == run_id).isEmpty()
