"""What arrived of each raw table, as the gate sees it: rows, against those of earlier runs, and the newest events."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
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
    """The verdicts on volume, freshness and what is ahead of `as_of`.

    `rows_read`: of the tables of which anything arrived; None: nothing did, and volumes are not judged. `interval`: as
    `interval_hours` gives it.
    """
    usual = _usual_rows(spark, config, as_of, interval) if rows_read is not None else {}
    hours = _hours_since_newest(spark, config, as_of, tables, with_known=interval != 0)
    ahead = _hours_ahead(config, as_of, tables) if interval != 0 else {}  # all there is may go far beyond as_of
    arrived = {
        name: Arrived(
            rows=None if rows_read is None else rows_read.get(name, 0),
            usual_rows=usual.get(name, []),
            hours=hours.get(name),
            hours_ahead=ahead.get(name),
        )
        for name in config.activity_tables
    }
    events = config.events
    return arrival_verdicts(arrived, volume=events.volume, freshness=events.freshness, ahead=events.ahead)


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
    hours = _hours_of_arrived(tables, limits, before, as_of)
    if with_known:
        events = read_table(spark, event_contract(config), config.root).where(before).select("source", "event_time")
        newest = as_of - timedelta(hours=max(limits.values()))
        for known in (events.where(F.col("event_time") >= F.lit(newest)), events):
            if old := [name for name, limit in limits.items() if hours.get(name, limit + 1) > limit]:
                found = _hours(known.where(F.col("source").isin(old)), as_of)
                hours |= {name: min(hours.get(name, value), value) for name, value in found.items()}
    return hours


def _hours_ahead(config: Config, as_of: datetime, tables: Mapping[str, JudgedTable]) -> dict[str, float]:
    """Source -> hours from `as_of` to its newest event, at least 0, of what arrived of those with a limit."""
    limits = [name for name in config.sources if config.events.ahead.of(name).max_hours]
    after = F.col("event_time") >= F.lit(as_of)
    found = _hours_of_arrived(tables, limits, after, as_of)
    return {name: -found.get(name, 0.0) for name in limits if name in tables}


def _hours_of_arrived(
    tables: Mapping[str, JudgedTable], names: Collection[str], condition: Column, as_of: datetime
) -> dict[str, float]:
    """`_hours` of the arrived events of these sources that meet a condition."""
    parts = [
        table.rows.where(F.col("ending").isNull() & condition).select(F.lit(name).alias("source"), "event_time")
        for name, table in tables.items()
        if name in names
    ]
    return _hours(reduce(DataFrame.unionAll, parts), as_of) if parts else {}


def _hours(events: DataFrame, as_of: datetime) -> dict[str, float]:
    newest = events.groupBy("source").agg(F.unix_micros(F.max("event_time")).alias("micros")).collect()
    return {row["source"]: (as_of.timestamp() - row["micros"] / 1e6) / 3600 for row in newest}
