"""Questions about the future, whose labels begin at the cut, and about what is known of a customer at the cut.

Features see strictly less than the cut.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


def task_labels(
    events: DataFrame,
    *,
    kind: Literal["churn", "value", "event"],
    source: str,
    money: str,
    cut: datetime,
    active_days: int,
    horizon_days: int,
    event: str | None = None,
    after: str | None = None,
    attribute: str | None = None,
    values: Sequence[str] | None = None,
) -> DataFrame:
    """`events` -> customer_id, label (double), rule (double) of the population at `cut` (UTC).

    Population: customers with an event of the source `after` (None: of `source`) in the `active_days` before the cut.
    The horizon is [cut, cut + horizon_days). The label within it, by kind:
      churn: 1 for no event of `source`, otherwise 0;
      value: the sum of `money` of its events;
      event: 1 for an event of the source `event` (with `values`: whose `attribute` has one of them), otherwise 0.
    rule is what needs no model: days since the last event; the sum of `money`, or the number of events of `event`, in
    as many days before the cut.
    """
    asked, before = event or source, after or source
    time, amount = F.col("event_time"), F.coalesce(F.col(money).cast("double"), F.lit(0.0))
    horizon, active = timedelta(days=horizon_days), timedelta(days=active_days)
    begin = cut - max(horizon, active)
    around = events.where(F.col("source").isin(asked, before) & (time >= F.lit(begin)) & (time < F.lit(cut + horizon)))
    is_asked, is_after = F.col("source") == asked, time >= F.lit(cut)
    if attribute is not None and values is not None:
        is_asked = is_asked & F.coalesce(_has_one_of(events, attribute, values), F.lit(False))
    is_active = (F.col("source") == before) & ~is_after & (time >= F.lit(cut - active))
    is_asked_before = is_asked & ~is_after & (time >= F.lit(cut - horizon))
    counted = around.groupBy("customer_id").agg(
        F.count_if(is_active).alias("num_active"),
        F.count_if(is_asked & is_after).alias("num_after"),
        F.count_if(is_asked_before).alias("num_before"),
        F.max(F.when(is_active, F.unix_micros(time))).alias("last_time"),
        F.sum(F.when(is_asked & is_after, amount).otherwise(0.0)).alias("amount_after"),
        F.sum(F.when(is_asked_before, amount).otherwise(0.0)).alias("amount_before"),
    )
    label, rule = {
        "churn": (F.col("num_after") == 0, (F.unix_micros(F.lit(cut)) - F.col("last_time")) / 86_400e6),
        "value": (F.col("amount_after"), F.col("amount_before")),
        "event": (F.col("num_after") > 0, F.col("num_before")),
    }[kind]
    return counted.where(F.col("num_active") > 0).select(
        "customer_id", label.cast("double").alias("label"), rule.cast("double").alias("rule")
    )


def _has_one_of(events: DataFrame, attribute: str, values: Sequence[str]) -> Column:
    is_set = events.schema[attribute].dataType.typeName() == "array"
    return F.arrays_overlap(attribute, F.array(*map(F.lit, values))) if is_set else F.col(attribute).isin(*values)


def attribute_labels(
    events: DataFrame,
    profiles: DataFrame,
    *,
    source: str,
    attribute: str,
    values: Sequence[str] | None,
    cut: datetime,
    active_days: int,
) -> DataFrame:
    """`events`, and profiles as of the cut -> customer_id, label (double) of the population at `cut` (UTC).

    Population: customers with an event of `source` in the `active_days` before the cut, of whom the `attribute` is
    known. The label is their number; with `values`, 1 for one of these and otherwise 0.
    """
    time, told = F.col("event_time"), F.col(attribute)
    is_active = (F.col("source") == source) & (time < F.lit(cut)) & (time >= F.lit(cut - timedelta(days=active_days)))
    active = events.where(is_active).select("customer_id")
    label = (told if values is None else told.isin(*values)).cast("double").alias("label")
    labels = profiles.select("customer_id", label).where(F.col("label").isNotNull() & ~F.isnan("label"))
    return labels.join(active, on="customer_id", how="left_semi")


def newest_event_time(events: DataFrame, *, source: str) -> DataFrame:
    """`events` -> one row with `microseconds`, the newest event of `source` since 1970 (UTC); null if there is none."""
    return events.where(F.col("source") == source).select(F.unix_micros(F.max("event_time")).alias("microseconds"))
