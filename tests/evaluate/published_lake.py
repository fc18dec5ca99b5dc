"""One small lake: 120 customers, two published runs of one model. Shared by the tests of all that looks at runs."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.manifest import (
    CategoricalAttribute,
    Layout,
    SequenceFile,
    SequenceManifest,
    SetAttribute,
    sequences_folder,
    write_manifest,
)
from caspr_spark.metrics import write_metrics
from caspr_spark.runs import Run, record_run
from caspr_spark.session import local_frame
from caspr_spark.tables import write_table
from pipelines.contracts import event_contract
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS
from schemas.vocabulary import VOCABULARY
from tests.models.registered import register

FIRST, SECOND = datetime(2017, 10, 1, tzinfo=UTC), datetime(2017, 10, 8, tzinfo=UTC)
NUM_CUSTOMERS = 120
PAGE, REGION = (CategoricalAttribute(name=name, num_ids=5) for name in ("page", "region"))
TAGS = SetAttribute(name="tags", num_ids=5, max_values=2)
LAYOUT = Layout(
    max_events=2, categorical=(PAGE,), sets=(TAGS,), numerical=(), profile_categorical=(REGION,), profile_numerical=()
)
SCRIPT = "<script>alert(1)</script>"
OVERLAY = """
dataset: shop
root: {root}
sources:
  visits:
    format: csv
    path: visits.csv
    entity: customer
    time: {{column: time}}
    attributes:
      spend: {{kind: numerical}}
      tags: {{kind: set, max_values: 2}}
model: {{embedding_size: 4}}
monitor: {{max_median_distance: 0.4}}
evaluate:
  tasks: {{churn: {{kind: churn, source: visits, active_days: 28, horizon_days: 14, money: spend}}}}
  num_splits: 2
report: {{money: spend, describe_by: tags}}
"""


def published_lake(spark: SparkSession, folder: Path) -> Config:
    """Events, sequences, a checkpoint and history; the second run is in `embeddings`."""
    overlay = folder / "overlay.yaml"
    overlay.write_text(OVERLAY.format(root=folder / "root"))
    config = load_config([overlay])
    write_table(event_rows(spark), event_contract(config), config.root, made_from="raw")
    words = [("page", "home", 3, 60), ("page", "help", 4, 60), ("region", "north", 3, 60), ("region", "south", 4, 60)]
    words += [("tags", SCRIPT, 3, 240), ("tags", "t0", 4, 120)]
    vocabulary = local_frame(spark, words, "attribute string, value string, id int, num_occurrences bigint")
    write_table(vocabulary, VOCABULARY, config.root)
    for as_of, turned in ((FIRST, 0), (SECOND, 40)):
        run = run_rows(spark, as_of, turned=turned, model="m1")
        publish(spark, config, run, as_of)
        write_table(run, EMBEDDINGS, config.root)
        write_sequences(spark, config, as_of)
    for model in ("m1", "m2"):
        register(config.root, model, as_of=FIRST, layout=LAYOUT, embedding_size=4)
    epochs = [{"epoch": number, "training_loss": 1 / number, "validation_loss": 1.1 / number} for number in (1, 2, 3)]
    curve = Path(config.root) / "checkpoints" / "m1" / "curve.jsonl"
    curve.write_text("\n".join(json.dumps(epoch) for epoch in epochs))
    counts = {("rows_read", "visits"): 1200.0, ("rows_taken", "visits"): 1199.0, ("rows_rejected", "visits"): 1.0}
    write_metrics(
        spark,
        {**counts, ("rows_duplicate", "visits"): 0.0, ("rows_rejected_by_reason", "visits: time_present"): 1.0},
        config.root,
        as_of=FIRST,
        run_id="",
        stage="events",
    )
    return config


def event_rows(spark: SparkSession) -> Any:
    """Twenty visits each, two days apart; every third customer's last is before SECOND, the others' long after."""
    rows = []
    for number in range(NUM_CUSTOMERS):
        last = SECOND - timedelta(days=5) if number % 3 == 0 else SECOND + timedelta(days=20)
        for visit in range(20):
            time = last - timedelta(days=2 * visit, minutes=number)
            rows.append(
                (f"c{number:03}", time, f"visits:{number}-{visit}", float(number + visit), [SCRIPT, f"t{number % 5}"])
            )
    columns = "customer_id string, event_time timestamp, event_id string, spend double, tags array<string>"
    return local_frame(spark, rows, columns).select(
        "*",
        F.lit("visits").alias("source"),
        F.lit(None).cast("string").alias("session_id"),
        F.lit(1).cast("bigint").alias("num_raw_rows"),
        F.lit(0).cast("bigint").alias("num_values_cut"),
    )


def run_rows(spark: SparkSession, as_of: datetime, *, turned: int, model: str) -> Any:
    """A run of unit vectors; the first `turned` customers have theirs at a right angle to what it was."""
    vectors = [
        [0.0, 0.0, 1.0, number / 100] if number < turned else [1.0, number / 100, 0.0, 0.0]
        for number in range(NUM_CUSTOMERS)
    ]
    rows = [(f"c{number:03}", vector) for number, vector in enumerate(vectors)]
    return local_frame(spark, rows, "customer_id string, embedding array<float>").select(
        "*",
        F.lit(as_of).alias("as_of"),
        F.lit(as_of - timedelta(hours=1)).alias("last_event_time"),
        F.lit(2).alias("num_events"),
        F.lit(model).alias("model_version"),
        F.lit(f"{model}-{as_of:%m%d}").alias("run_id"),
    )


def publish(spark: SparkSession, config: Config, run: Any, as_of: datetime, *, model: str = "m1") -> None:
    """Put a run of `run_rows` into the history and the runs, once."""
    recorded = Run(f"{model}-{as_of:%m%d}", as_of, "full", model, None, 1, 1, num_customers=NUM_CUSTOMERS)
    write_table(run, CUSTOMER_EMBEDDING_HISTORY, config.root, mode="append", once=recorded.run_id)
    record_run(spark, recorded, config.root)


def write_sequences(
    spark: SparkSession, config: Config, as_of: datetime, *, touched: int | None = None, unknown: bool = False
) -> None:
    """Two events each, the newer one an hour old, with tags and a page: `home`, then `help` or (a quarter of all)
    unknown.

    `touched`: a refresh, of the first so many customers; `unknown`: all newer pages are.
    """
    folder = sequences_folder(config.root, as_of)
    times = [round((as_of - timedelta(hours=hours)).timestamp() * 1_000_000) for hours in (200, 1)]
    rows = [
        (f"c{number:03}", 2, times, [3, 1 if unknown or number % 2 else 4], [3, 4, 3, 0], [3 + number % 2])
        for number in range(touched or NUM_CUSTOMERS)
    ]
    columns = (
        "customer_id string, num_events int, event_times array<bigint>, categorical array<int>, sets array<int>, "
        "profile_categorical array<int>"
    )
    local_frame(spark, rows, columns).write.parquet(str(folder))
    parts = sorted(folder.glob("*.parquet"))
    files = [
        SequenceFile(path=part.name, split="training", rows=60, row_groups=1, bytes=1, sha256="0") for part in parts
    ]
    manifest = SequenceManifest(
        as_of=as_of,
        fingerprint="f",
        layout=LAYOUT,
        vocabulary_version="v",
        scaling={},
        files=tuple(files),
        lineage={},
        touched=None if touched is None else "touched",
    )
    write_manifest(manifest, folder)
