"""The part of the report on the models that were scored as of a time, side by side, from what the steps wrote."""

from datetime import datetime

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import read_aliases
from caspr_spark.config import Config
from caspr_spark.errors import CasprError
from caspr_spark.evaluate.significance import score_table
from caspr_spark.monitor.alignment import Alignment, alignment_text
from caspr_spark.registry import read_card
from caspr_spark.tables import read_table, table_exists
from pipelines.evaluate_embeddings import task_score_table
from pipelines.monitor_embeddings import published_run
from schemas.drift_metrics import DRIFT_METRICS
from schemas.run_metrics import RUN_METRICS


def model_section(spark: SparkSession, config: Config, as_of: datetime) -> list[dict[str, str]]:
    """A row a scored model, the champion first; a challenger without a run as of this time says so."""
    return [_row(spark, config, as_of, model) for model in read_aliases(config.root).scored]


def _row(spark: SparkSession, config: Config, as_of: datetime, model: str) -> dict[str, str]:
    card = read_card(config.root, model)
    row = {
        "alias": read_aliases(config.root).alias_of(model),
        "model": model,
        "trained as of": f"{card.as_of:%Y-%m-%d %H:%M}" if card else "–",
        "customers": "no run as of this time",
        "median distance": "–",
        "drift": "–",
        "AUROC or Spearman of the vector": "–",
    }
    try:
        run_id = published_run(spark, config.root, as_of, model)
    except CasprError:
        return row
    of_run = (F.col("as_of") == F.lit(as_of)) & (F.col("run_id") == run_id)
    if table_exists(spark, RUN_METRICS, config.root):
        measured = read_table(spark, RUN_METRICS, config.root).where(of_run & (F.col("stage") == "monitor")).collect()
        found = {(one["metric"], one["key"]): one["value"] for one in measured}
        row["customers"] = f"{int(found.get(('customers_embedded', ''), 0)):,}"
        if ("distance", "p50") in found:
            row["median distance"] = f"{found['distance', 'p50']:.4f}"
    if table_exists(spark, DRIFT_METRICS, config.root):
        told = read_table(spark, DRIFT_METRICS, config.root).where(of_run & F.col("measure").isin("alert", "alignment"))
        numbers = told.collect()
        row["drift"] = "alert" if any(one["measure"] == "alert" for one in numbers) else "no alert"
        if fit := {one["bin"]: one["value"] for one in numbers if one["measure"] == "alignment"}:
            row["drift"] += f"; a new model: turned onto its vectors, {alignment_text(Alignment(**fit))}"
    scores = task_score_table(spark, config, as_of, model)
    if len(scores):
        table = score_table(scores)
        best = table[(table["head"] == "best") & (table["arm"] == "embedding")]
        ranking = best[best["metric"].isin(("auroc", "spearman"))].itertuples()
        row["AUROC or Spearman of the vector"] = ", ".join(f"{one.task} {one.mean:.4f}" for one in ranking)
    return row
