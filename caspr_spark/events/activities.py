"""Taken rows -> activities: lines grouped where the source says so, ids given, sets cut, sessions assigned."""

import sys
from collections.abc import Mapping

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from caspr_spark.config import Attribute, Group, Sessions
from caspr_spark.errors import ConfigError
from caspr_spark.events.raw import first_line
from caspr_spark.events.rows import key_columns, lacks_key, row_as_json


def activities(
    taken: DataFrame, *, source: str, key: list[str], group: Group | None, attributes: Mapping[str, Attribute]
) -> DataFrame:
    """Taken rows of one source -> its events, without session; only this source's attributes have columns."""
    if group is None:
        return _one_per_row(taken, source=source, key=key, attributes=attributes)
    return _one_per_group(taken, source=source, by=group.by, attributes=attributes)


def with_sessions(events: DataFrame, *, sessions: Sessions | None) -> DataFrame:
    """Events of one source plus `session_id`: the event_id of the session's first event, null without sessions.

    A session starts with a customer's first event, after a gap of more than `idle_minutes`, with an event that
    `starts_when` names, and after an event that `ends_when` names. Where the events have a column `known_session_id`,
    a customer's first one goes on with that session: it is not the first of all.

    Raises:
        ConfigError: a predicate does not fit the events.
    """
    if sessions is None:
        return events.withColumn("session_id", F.lit(None).cast("string"))
    for name, predicate in (("starts_when", sessions.starts_when), ("ends_when", sessions.ends_when)):
        try:
            events.where(F.expr(predicate or "true"))
        except AnalysisException as error:
            raise ConfigError(f"sessions.{name} ({predicate}): {first_line(error)}") from None
    in_order = Window.partitionBy("customer_id").orderBy("event_time", "event_id")
    idle = F.col("event_time") > F.lag("event_time").over(in_order) + F.expr(
        f"interval {sessions.idle_minutes} minutes"
    )
    is_first = F.lag("event_id").over(in_order).isNull()
    starts = is_first | idle
    if sessions.starts_when is not None:
        starts = starts | F.coalesce(F.expr(sessions.starts_when), F.lit(False))
    if sessions.ends_when is not None:
        ended = F.coalesce(F.expr(sessions.ends_when), F.lit(False))
        starts = starts | F.coalesce(F.lag(ended).over(in_order), F.lit(False))
    first_event_id = F.when(starts, F.col("event_id"))
    if "known_session_id" in events.columns:
        first_event_id = F.when(is_first, F.coalesce("known_session_id", "event_id")).otherwise(first_event_id)
    return events.withColumn("first_event_id", first_event_id).select(
        *events.columns, F.last("first_event_id", ignorenulls=True).over(in_order).alias("session_id")
    )


def event_id(source: str, parts: list[Column]) -> Column:
    """`source:part/part`, / and % escaped, %- for null: different parts never give the same id."""

    def escaped(part: Column) -> Column:
        without_percent = F.replace(part.cast("string"), F.lit("%"), F.lit("%25"))
        return F.coalesce(F.replace(without_percent, F.lit("/"), F.lit("%2F")), F.lit("%-"))

    return F.concat(F.lit(f"{source}:"), F.concat_ws("/", *[escaped(part) for part in parts]))


def _one_per_row(taken: DataFrame, *, source: str, key: list[str], attributes: Mapping[str, Attribute]) -> DataFrame:
    by_content = event_id(source, [F.md5(row_as_json())])
    by_key = event_id(source, [F.col("customer_id"), *key_columns(key)])
    return taken.select(
        "customer_id",
        "event_time",
        F.when(lacks_key(key), by_content).otherwise(by_key).alias("event_id"),
        F.lit(source).alias("source"),
        F.lit(1).cast("bigint").alias("num_raw_rows"),
        _num_values_cut({name: F.col(name) for name in _sets(attributes)}, attributes).alias("num_values_cut"),
        *[_cut(F.col(name), attribute).alias(name) for name, attribute in attributes.items()],
    )


def _one_per_group(taken: DataFrame, *, source: str, by: list[str], attributes: Mapping[str, Attribute]) -> DataFrame:
    parts = [column.alias(f"by_{index}") for index, column in enumerate(key_columns(by))]
    grouped = taken.select("customer_id", "event_time", *parts, *attributes).groupBy(
        "customer_id", *[f"by_{index}" for index in range(len(by))]
    )
    together = grouped.agg(
        F.min("event_time").alias("event_time"),
        F.count(F.lit(1)).alias("num_raw_rows"),
        *[_aggregated(name, attribute).alias(name) for name, attribute in attributes.items()],
    )
    identity = [F.col("customer_id"), *[F.col(f"by_{index}") for index in range(len(by))]]
    return together.select(
        "customer_id",
        "event_time",
        event_id(source, identity).alias("event_id"),
        F.lit(source).alias("source"),
        "num_raw_rows",
        _num_values_cut({name: F.col(name) for name in _sets(attributes)}, attributes).alias("num_values_cut"),
        *[_cut(F.col(name), attribute).alias(name) for name, attribute in attributes.items()],
    )


def _aggregated(name: str, attribute: Attribute) -> Column:
    value = F.col(name)
    if attribute.aggregate == "distinct":
        return F.flatten(F.collect_list(value))
    if attribute.aggregate == "most_frequent":
        return F.mode(value, deterministic=True)
    if attribute.aggregate == "count":
        return F.count(value).cast("double")
    if attribute.aggregate in ("sum", "mean"):
        return _sum_in_order(value) / (F.count(value) if attribute.aggregate == "mean" else F.lit(1.0))
    return {"min": F.min, "max": F.max}[str(attribute.aggregate)](value)


def _sum_in_order(value: Column) -> Column:
    """The sum to the last bit, whatever order the rows come in; null without any value, and always finite."""
    values = F.array_sort(F.collect_list(value))
    total = F.aggregate(values, F.lit(0.0), lambda total, item: total + item)
    within = F.greatest(F.least(total, F.lit(sys.float_info.max)), F.lit(-sys.float_info.max))
    return F.when(F.size(values) > 0, within)


def _sets(attributes: Mapping[str, Attribute]) -> list[str]:
    return [name for name, attribute in attributes.items() if attribute.kind == "set"]


def _cut(value: Column, attribute: Attribute) -> Column:
    """A set's distinct values, the most frequent first, then by value, up to `max_values`; null where it is empty."""
    if attribute.kind != "set":
        return value
    counted = F.transform(
        F.array_distinct(value),
        lambda item: F.struct(
            (-F.size(F.filter(value, lambda other: other == item))).alias("rarity"), item.alias("value")
        ),
    )
    kept = F.slice(F.transform(F.array_sort(counted), lambda pair: pair["value"]), 1, attribute.max_values or 1)
    return F.when(F.size(value) > 0, kept)


def _num_values_cut(sets: Mapping[str, Column], attributes: Mapping[str, Attribute]) -> Column:
    total = F.lit(0).cast("bigint")
    for name, value in sets.items():
        beyond = F.size(F.array_distinct(value)) - F.lit(attributes[name].max_values)
        total = total + F.greatest(F.coalesce(beyond, F.lit(0)), F.lit(0)).cast("bigint")
    return total
