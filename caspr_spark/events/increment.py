"""Arrived events laid on what is known of their customers: which of them suffice, and what they change."""

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.config import Sessions
from caspr_spark.events.activities import with_sessions
from caspr_spark.events.states import is_whole, known_events
from schemas.contract import Contract


def rows_to_read_again(arrived: DataFrame, states: DataFrame, *, sessions: Mapping[str, Sessions | None]) -> DataFrame:
    """source, customer_id of the arrived events (EVENTS) whose effect the states of their customers do not tell.

    That is so where an activity was there before (a duplicate, a correction, a further line), and where an event of a
    source with sessions is older than all that the state holds of that source. `sessions`: source -> its sessions.
    """
    order = F.struct("event_time", "event_id")
    firsts = arrived.groupBy("source", "customer_id").agg(
        F.min(order).alias("first"), F.collect_set(F.xxhash64("event_id")).alias("keys")
    )
    held = F.filter("newest", lambda event: event["source"] == F.col("source"))
    oldest = F.array_min(F.transform(held, lambda event: F.struct(event["event_time"], event["event_id"])))
    in_sessions = F.col("source").isin([name for name, declared in sessions.items() if declared is not None])
    is_too_old = in_sessions & ~is_whole() & (F.col("first") < oldest)
    was_there = F.arrays_overlap("keys", "event_keys")
    return (
        firsts.join(states, on="customer_id", how="inner")
        .where(F.coalesce(was_there, F.lit(False)) | F.coalesce(is_too_old, F.lit(False)))
        .select("source", "customer_id")
    )


def increment(
    arrived: DataFrame, states: DataFrame, contract: Contract, *, sessions: Mapping[str, Sessions | None]
) -> DataFrame:
    """Arrived events laid on those that the states hold -> EVENTS with `is_new` and `known_session_id`.

    They are the new events, and the known ones whose session is now another; `known_session_id` is the session before,
    null for a new event.
    """
    new = arrived.drop("session_id").withColumns(
        {"is_new": F.lit(True), "known_session_id": F.lit(None).cast("string")}
    )
    known = known_events(states, contract).withColumnRenamed("session_id", "known_session_id")
    known = known.withColumn("is_new", F.lit(False))
    parts = []
    for source, declared in sessions.items():
        rows = new if declared is None else new.unionByName(known)  # without sessions, no known event changes
        parts.append(with_sessions(rows.where(F.col("source") == source), sessions=declared))
    laid = reduce(DataFrame.unionByName, parts).select(*contract.column_names, "is_new", "known_session_id")
    return laid.where("is_new or not session_id <=> known_session_id")


def changes_of(incremented: DataFrame, contract: Contract) -> tuple[DataFrame, DataFrame]:
    """What `increment` gave -> EVENTS to take out (as they were) and EVENTS to put in."""
    changed = incremented.where(~F.col("is_new"))
    before = changed.drop("session_id").withColumnRenamed("known_session_id", "session_id")
    return before.select(*contract.column_names), incremented.select(*contract.column_names)
