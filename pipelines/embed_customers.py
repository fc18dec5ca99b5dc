"""Step 4: sequences and the current checkpoint -> embeddings."""

from datetime import datetime
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.embed.score import scored_customers
from caspr_spark.errors import CasprError
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import SequenceManifest, read_manifest, sequences_folder
from caspr_spark.model.checkpoint import checkpoints_folder, current_checkpoint
from caspr_spark.model.scoring import load_encoder
from caspr_spark.tables import empty_table, last_commit_notes, read_table, table_exists, write_table
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS


def embed_customers(spark: SparkSession, config: Config, as_of: datetime) -> Summary:
    """Score every customer of the sequences as of `as_of` once and put the vectors into `embeddings`.

    Raises:
        UnsafeError: the current model belongs to another vocabulary or layout, or its bytes were changed.
        CasprError: customers were lost or doubled.
    """
    folder = sequences_folder(config.root, as_of)
    manifest = read_manifest(folder)
    current = current_checkpoint(Path(config.root))
    run_id = embedding_run_id(manifest, current.model_version)
    if last_commit_notes(spark, EMBEDDINGS, config.root).get("made_from") == run_id or _in_history(
        spark, config.root, run_id
    ):
        return Summary("embed", manifest.rows, manifest.rows, changed=False)

    checkpoint = checkpoints_folder(Path(config.root)).resolve() / current.model_version
    load_encoder(checkpoint).check_fits(manifest)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(config.embed.batch_size))
    if manifest.files:
        scored = scored_customers(
            spark.read.parquet(*[str((folder / file.path).resolve()) for file in manifest.files]),
            checkpoint=checkpoint,
            model_version=current.model_version,
            as_of_us=round(as_of.timestamp() * 1_000_000),
            threads=config.embed.threads,
        )
        embeddings = scored.select(
            "customer_id",
            "embedding",
            F.lit(as_of).alias("as_of"),
            "last_event_time",
            "num_events",
            F.lit(current.model_version).alias("model_version"),
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


def embedding_run_id(manifest: SequenceManifest, model_version: str) -> str:
    """Equal sequences and an equal model give an equal run_id."""
    inputs = fingerprint(sequences=manifest.fingerprint, vocabulary=manifest.vocabulary_version)
    return f"{manifest.as_of:%Y%m%dT%H%M%SZ}-{model_version}-{inputs[:8]}"


def _in_history(spark: SparkSession, root: str, run_id: str) -> bool:
    if not table_exists(spark, CUSTOMER_EMBEDDING_HISTORY, root):
        return False
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, root)
    return not history.where(F.col("run_id") == run_id).isEmpty()
