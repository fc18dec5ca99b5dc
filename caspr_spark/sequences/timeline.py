"""What of the events a model may see: before `as_of`, the newest of each customer, with calendar parts."""

from collections.abc import Sequence
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

_PARTS = {"hour": F.hour, "weekday": F.weekday, "day_of_month": F.dayofmonth, "month": F.month}


def visible_events(events: DataFrame, *, as_of: datetime) -> DataFrame:
    """EVENTS -> EVENTS before `as_of` (UTC, exclusive)."""
    return events.where(F.col("event_time") < F.lit(as_of))


def newest_events(events: DataFrame, *, max_events: int) -> DataFrame:
    """The newest `max_events` of each customer, ties broken by event_id. A customer of a million events does not hurt:
    the rows are cut before they are gathered."""
    newest_first = Window.partitionBy("customer_id").orderBy(F.desc("event_time"), F.desc("event_id"))
    ranked = events.withColumn("recency", F.row_number().over(newest_first))
    return ranked.where(F.col("recency") <= max_events).drop("recency")


def with_time_parts(events: DataFrame, *, parts: Sequence[str], zone: str) -> DataFrame:
    """Events plus one text column a calendar part of the event time in `zone`: hour 0-23, weekday 0 (Monday) - 6."""
    local = F.from_utc_timestamp("event_time", zone)
    return events.select("*", *[_PARTS[part](local).cast("string").alias(part) for part in parts])


def is_held_out(*, seed: int, validation_share: float) -> Column:
    """True for the share of customers that train nothing: no weight, vocabulary or scaling. By the id alone."""
    bucket = F.pmod(F.xxhash64("customer_id", F.lit(seed)), F.lit(10_000))
    return bucket < round(validation_share * 10_000)


def profiles_as_of(profiles: DataFrame, *, as_of: datetime, attributes: dict[str, str]) -> DataFrame:
    """PROFILES -> one row a customer with each attribute as the newest row before `as_of` has it.

    `attributes`: attribute name -> profile it belongs to.
    """
    known = profiles.where(F.col("valid_from_time") < F.lit(as_of))
    newest = [
        F.expr(f"max_by(`{name}`, valid_from_time) filter (where profile = '{profile}')").alias(name)
        for name, profile in attributes.items()
    ]
    return known.groupBy("customer_id").agg(*newest) if newest else known.select("customer_id").distinct()
