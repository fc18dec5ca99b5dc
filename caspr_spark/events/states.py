"""What a refresh knows of each customer's past without reading it: the newest events, and which others there are."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from schemas.contract import Contract


def customer_states(events: DataFrame, *, max_events: int, sources: Sequence[str], number: int) -> DataFrame:
    """EVENTS -> CUSTOMER_STATES, one row a customer. `sources`: all that are declared."""
    return _states(events, max_events=max_events, sources=sources, number=number).select(
        "customer_id",
        "state_number",
        F.size("event_keys").cast("bigint").alias("num_events"),
        "event_keys",
        "newest",
    )


def grown_states(states: DataFrame, changes: DataFrame, *, max_events: int, number: int) -> DataFrame:
    """States of customers -> those of the customers whose events change.

    `changes`: EVENTS with the boolean `is_new`: new events, and known ones in their new session.
    """
    fields = [name for name in changes.columns if name not in ("customer_id", "is_new")]
    laid = changes.groupBy("customer_id").agg(
        F.collect_list(F.struct(*fields)).alias("laid"),
        F.collect_list(F.when(F.col("is_new"), F.xxhash64("event_id"))).alias("new_keys"),
    )
    joined = laid.join(states.select("customer_id", "event_keys", "newest"), on="customer_id", how="left")
    known = F.filter(
        "newest", lambda event: ~F.array_contains(F.transform("laid", lambda one: one["event_id"]), event["event_id"])
    )
    all_keys = F.when(F.col("event_keys").isNull(), F.col("new_keys")).otherwise(F.concat("event_keys", "new_keys"))
    all_events = F.when(F.col("newest").isNull(), F.col("laid")).otherwise(F.concat(known, "laid"))
    merged = joined.select(
        "customer_id", all_keys.alias("event_keys"), F.sort_array(all_events, asc=False).alias("all")
    )
    sources = F.transform("all", lambda event: event["source"])
    held = F.filter(
        "all",
        lambda event, index: (index < max_events) | (F.array_position(sources, event["source"]) == index + 1),
    )
    return merged.select(
        "customer_id",
        F.lit(number).cast("bigint").alias("state_number"),
        F.size("event_keys").cast("bigint").alias("num_events"),
        "event_keys",
        held.alias("newest"),
    )


def newest_states(states: DataFrame) -> DataFrame:
    """CUSTOMER_STATES -> the row of each customer that holds."""
    others = [name for name in states.columns if name != "customer_id"]
    newest = F.max_by(F.struct(*others), "state_number").alias("state")
    return states.groupBy("customer_id").agg(newest).select("customer_id", "state.*")


def known_events(states: DataFrame, contract: Contract) -> DataFrame:
    """CUSTOMER_STATES -> EVENTS: the events that the states hold whole."""
    return states.select("customer_id", F.explode("newest").alias("event")).select(
        *[F.col("customer_id") if name == "customer_id" else F.col(f"event.`{name}`") for name in contract.column_names]
    )


def is_whole() -> Column:
    """True for a state that holds all events of its customer."""
    return F.size("newest") == F.col("num_events")


def tells_newest(*, as_of: Column, max_events: int) -> Column:
    """True for a state that holds the newest `max_events` events before a time, or all there are."""
    visible = F.filter(F.slice("newest", 1, max_events), lambda event: event["event_time"] < as_of)
    return is_whole() | (F.size(visible) >= max_events)


def _states(events: DataFrame, *, max_events: int, sources: Sequence[str], number: int) -> DataFrame:
    fields = [name for name in events.columns if name != "customer_id"]
    in_order = Window.partitionBy("customer_id").orderBy(F.desc("event_time"), F.desc("event_id"))
    ranked = events.withColumn("recency", F.row_number().over(in_order)).withColumn("event", F.struct(*fields))
    order = F.struct("event_time", "event_id")
    last_of_each = [
        F.max_by(F.when(F.col("source") == source, F.col("event")), F.when(F.col("source") == source, order))
        for source in sources
    ]
    gathered = ranked.groupBy("customer_id").agg(
        F.collect_list(F.xxhash64("event_id")).alias("event_keys"),
        F.collect_list(F.when(F.col("recency") <= max_events, F.col("event"))).alias("recent"),
        F.array(*last_of_each).alias("last_of_each"),
    )
    held = F.array_distinct(F.concat("recent", F.filter("last_of_each", lambda event: event.isNotNull())))
    return gathered.select(
        "customer_id",
        F.lit(number).cast("bigint").alias("state_number"),
        "event_keys",
        F.sort_array(held, asc=False).alias("newest"),
    )
