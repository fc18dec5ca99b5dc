"""What arrived of each raw table, as the gate sees it: rows, against those of earlier runs, and the newest event."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.events.sources import JudgedTable
from caspr_spark.events.volume import Arrived, arrival_verdicts
from caspr_spark.gate import Judged
from caspr_spark.runs import last_as_of
from caspr_spark.tables import read_table, table_exists
from pipelines.contracts import event_contract
from schemas.run_metrics import RUN_METRICS

INTERVAL = "interval_hours"
"""Metric of the stage events: hours since the run before; 0 for a run that reads all there is."""


def interval_hours(spark: SparkSession, root: str, as_of: datetime) -> float | None:
    """Hours from the last published run before `as_of`; None where there is none."""
    last = last_as_of(spark, root, before=as_of)
    return None if last is None else (as_of - last) / timedelta(hours=1)


def judged_arrivals(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    tables: Mapping[str, JudgedTable],
    rows_read: Mapping[str, int] | None,
    *,
    interval: float | None,
) -> Judged:
    """The verdicts on volume and freshness.

    `rows_read`: of the tables of which anything arrived; None: nothing did, and volumes are not judged. `interval`: as
    `interval_hours` gives it.
    """
    usual = _usual_rows(spark, config, as_of, interval) if rows_read is not None else {}
    hours = _hours_since_newest(spark, config, as_of, tables, with_known=interval != 0)
    arrived = {
        name: Arrived(
            rows=None if rows_read is None else rows_read.get(name, 0),
            usual_rows=usual.get(name, []),
            hours=hours.get(name),
        )
        for name in config.activity_tables
    }
    return arrival_verdicts(arrived, volume=config.events.volume, freshness=config.events.freshness)


def _usual_rows(spark: SparkSession, config: Config, as_of: datetime, interval: float | None) -> dict[str, list[float]]:
    """Raw table -> rows read by each of the last runs of the same kind; 0 where nothing of it arrived."""
    if interval is None or not table_exists(spark, RUN_METRICS, config.root):
        return {}
    earlier = read_table(spark, RUN_METRICS, config.root).where(
        (F.col("stage") == "events") & (F.col("as_of") < F.lit(as_of)) & F.col("metric").isin("rows_read", INTERVAL)
    )
    runs: dict[datetime, dict[str, float]] = {}
    for row in earlier.collect():
        runs.setdefault(row["as_of"], {})[row["key"]] = row["value"]  # INTERVAL has the empty key
    alike = sorted((time for time, rows in runs.items() if rows.get("") == interval), reverse=True)
    last = alike[: config.events.volume.num_runs]
    return {name: [runs[time].get(name, 0) for time in last] for name in config.activity_tables}


def _hours_since_newest(
    spark: SparkSession, config: Config, as_of: datetime, tables: Mapping[str, JudgedTable], *, with_known: bool
) -> dict[str, float]:
    """Source -> hours from its newest event before `as_of`, of those with a limit; without those that have no event.

    What arrived is looked at first, then (`with_known`) the events of the last hours, then all events.
    """
    limits = {name: limit for name in config.sources if (limit := config.events.freshness.of(name).max_hours)}
    if not limits:
        return {}
    before = F.col("event_time") < F.lit(as_of)
    parts = [
        table.rows.where(F.col("ending").isNull() & before).select(F.lit(name).alias("source"), "event_time")
        for name, table in tables.items()
        if name in limits
    ]
    hours = _hours(reduce(DataFrame.unionAll, parts), as_of) if parts else {}
    if with_known:
        events = read_table(spark, event_contract(config), config.root).where(before).select("source", "event_time")
        newest = as_of - timedelta(hours=max(limits.values()))
        for known in (events.where(F.col("event_time") >= F.lit(newest)), events):
            if old := [name for name, limit in limits.items() if hours.get(name, limit + 1) > limit]:
                found = _hours(known.where(F.col("source").isin(old)), as_of)
                hours |= {name: min(hours.get(name, value), value) for name, value in found.items()}
    return hours


def _hours(events: DataFrame, as_of: datetime) -> dict[str, float]:
    newest = events.groupBy("source").agg(F.unix_micros(F.max("event_time")).alias("micros")).collect()
    return {row["source"]: (as_of.timestamp() - row["micros"] / 1e6) / 3600 for row in newest}
