"""The account of a step over raw rows: how each row ended, what the gate says, what the user is told."""

from collections.abc import Mapping
from datetime import datetime
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.events.rows import DUPLICATE
from caspr_spark.events.sources import JudgedTable
from caspr_spark.metrics import write_metrics
from pipelines.arrivals_gate import INTERVAL

TAKEN = "taken"
ERASED = "erased"
_NO_REASONS = (TAKEN, DUPLICATE, ERASED)
Endings = dict[str, dict[str, int]]
"""Source -> ending (`taken` and `erased` included) -> number of raw rows."""


def counted_endings(tables: Mapping[str, JudgedTable]) -> Endings:
    """How the rows of each source ended. A source without rows has no ending."""
    endings: Endings = {name: {ERASED: t.rows_erased} if t.rows_erased else {} for name, t in tables.items()}
    if not tables:
        return endings
    ended = [
        table.rows.select(F.lit(name).alias("source"), F.coalesce("ending", F.lit(TAKEN)).alias("ending"))
        for name, table in tables.items()
    ]
    counted = reduce(DataFrame.unionAll, ended).groupBy("source", "ending").count()
    for row in counted.orderBy("source", "ending").collect():
        endings[row["source"]][row["ending"]] = row["count"]
    return endings


def _account(table: JudgedTable, endings: dict[str, int]) -> str:
    """`purchases: 10 rows read = 7 taken + 1 duplicate + 2 rejected (time_present 2)`."""
    reasons = {reason: count for reason, count in endings.items() if reason not in _NO_REASONS}
    text = (
        f"{table.name}: {sum(endings.values()):,} rows read = {endings.get(TAKEN, 0):,} taken"
        f" + {endings.get(DUPLICATE, 0):,} duplicate + {sum(reasons.values()):,} rejected"
    )
    text += f" ({', '.join(f'{reason} {count:,}' for reason, count in reasons.items())})" if reasons else ""
    text += f" + {endings[ERASED]:,} erased" if ERASED in endings else ""
    return text + (f"; {table.rows_outside_filter:,} outside the filter" if table.rows_outside_filter else "")


def _row_metrics(endings: Endings) -> dict[tuple[str, str], float]:
    metrics: dict[tuple[str, str], float] = {}
    for name, ends in endings.items():
        reasons = {reason: count for reason, count in ends.items() if reason not in _NO_REASONS}
        metrics["rows_read", name] = sum(ends.values())
        metrics["rows_taken", name] = ends.get(TAKEN, 0)
        metrics["rows_duplicate", name] = ends.get(DUPLICATE, 0)
        metrics["rows_rejected", name] = sum(reasons.values())
        if ERASED in ends:
            metrics["rows_erased", name] = ends[ERASED]
        metrics.update({("rows_rejected_by_reason", f"{name}: {reason}"): n for reason, n in reasons.items()})
    return metrics


def write_event_metrics(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    endings: Endings,
    events: DataFrame,
    *,
    interval: float | None,
) -> int:
    """Write the stage's numbers; returns how many values of sets were cut. `interval` as in `interval_hours`."""
    counted = events.groupBy("source").agg(
        F.count(F.lit(1)).alias("events"), F.coalesce(F.sum("num_values_cut"), F.lit(0)).alias("cut")
    )
    found = counted.orderBy("source").collect()
    num_cut = sum(int(row["cut"]) for row in found)
    metrics = {**_row_metrics(endings), ("set_values_cut", ""): num_cut}
    metrics.update({("events", row["source"]): row["events"] for row in found})
    if interval is not None:
        metrics[INTERVAL, ""] = interval
    write_metrics(spark, metrics, config.root, as_of=as_of, run_id="", stage="events")
    return num_cut


def rows_read(endings: Endings) -> dict[str, int]:
    """Source -> its raw rows."""
    return {name: sum(ends.values()) for name, ends in endings.items()}


def notes_of(tables: dict[str, JudgedTable], endings: Endings, num_cut: int) -> list[str]:
    notes = [_account(tables[name], ends) for name, ends in endings.items()]
    return notes + ([f"{num_cut:,} values of sets were beyond their max_values and left out"] if num_cut else [])
