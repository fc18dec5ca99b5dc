"""What customers do, counted from `events` strictly before a time, and how segments differ in it from everybody."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

PERIOD_DAYS = 28
RECENCY = "days since the last event"
LEAST_MEMBER_SHARE = 0.05
"""A value that fewer members of a segment have says nothing about the segment."""
LEAST_RATIO = 1.2
"""Of a value's share in a segment to that of everybody, from which on it is told."""


def customer_activity(
    events: DataFrame, *, as_of: datetime, sources: Sequence[str], numerical: Sequence[str]
) -> DataFrame:
    """`events` -> customer_id and one column (double) a name of `activity_measures`, by events before `as_of` (UTC).

    Rates are over the time since the customer's first event, at least 28 days. A mean is null where no value is known.
    """
    past = events.where(F.col("event_time") < F.lit(as_of))
    age_days = (F.unix_micros(F.lit(as_of)) - F.unix_micros("event_time")) / 86_400e6
    periods = F.greatest(F.max(age_days), F.lit(float(PERIOD_DAYS))) / PERIOD_DAYS
    measures: dict[str, Column] = {RECENCY: F.min(age_days)}
    measures |= {_rate_of(source): F.count_if(F.col("source") == source) / periods for source in sources}
    for name in numerical:
        known = F.when(~F.isnan(F.col(name).cast("double")), F.col(name).cast("double"))
        measures[_rate_of_sum(name)] = F.coalesce(F.sum(known), F.lit(0.0)) / periods
        measures[_mean_of(name)] = F.mean(known)
    return past.groupBy("customer_id").agg(*[column.cast("double").alias(name) for name, column in measures.items()])


def activity_measures(sources: Sequence[str], numerical: Sequence[str]) -> list[str]:
    """The columns of `customer_activity` as a reader sees them."""
    sums_and_means = [name(attribute) for attribute in numerical for name in (_rate_of_sum, _mean_of)]
    return [RECENCY, *[_rate_of(source) for source in sources], *sums_and_means]


def measure_contrasts(activity: DataFrame, segments: DataFrame, *, measures: Sequence[str]) -> DataFrame:
    """segment, measure, mean, mean_of_all, deviations: (mean - mean_of_all) / standard deviation of all customers.

    `segments`: customer_id, segment, which are all customers. Measures that are the same for everybody are left out.
    """
    joined = segments.join(activity, on="customer_id", how="left").select("segment", *measures)
    values = joined.unpivot("segment", list(measures), "measure", "value")
    of_all = values.groupBy("measure").agg(
        F.mean("value").alias("mean_of_all"), F.stddev_pop("value").alias("deviation")
    )
    of_segments = values.groupBy("segment", "measure").agg(F.mean("value").alias("mean"))
    told = of_segments.join(F.broadcast(of_all), on="measure", how="inner").where("deviation > 0 and mean is not null")
    deviations = (F.col("mean") - F.col("mean_of_all")) / F.col("deviation")
    return told.select("segment", "measure", "mean", "mean_of_all", deviations.alias("deviations"))


def value_contrasts(
    events: DataFrame,
    segments: DataFrame,
    *,
    as_of: datetime,
    attributes: Mapping[str, Literal["categorical", "set"]],
    num_values: int,
) -> DataFrame:
    """segment, attribute, value, share, share_of_all, rank: the most over-represented values, rank 1 first.

    share: of the segment's events before `as_of` that have the attribute; share_of_all: of those of all customers in
    `segments` (customer_id, segment). Ranked by share · ln(share / share_of_all). Left out are values that
    fewer than 5 % of a segment's members have, and those whose share is not 1.2 times everybody's.
    """
    past = events.where(F.col("event_time") < F.lit(as_of)).join(F.broadcast(segments), on="customer_id", how="inner")
    # Each event counts once under every value that it has, and once under no value, for the total.
    entries = F.concat(*[_entries(name, kind) for name, kind in attributes.items()])
    values = past.select("segment", "customer_id", F.explode(entries).alias("entry"))
    counted = values.groupBy("segment", "entry.attribute", "entry.value").agg(
        F.count(F.lit(1)).alias("times"), F.countDistinct("customer_id").alias("num_customers")
    )
    of_segment = counted.where("value is null").select("segment", "attribute", F.col("times").alias("num_events"))
    of_all = counted.groupBy("attribute", "value").agg(F.sum("times").alias("times_of_all"))
    all_events = of_all.where("value is null").select("attribute", F.col("times_of_all").alias("num_events_of_all"))
    sizes = segments.groupBy("segment").agg(F.count(F.lit(1)).alias("num_members"))
    told = (
        counted.where("value is not null")
        .join(of_segment, on=["segment", "attribute"], how="inner")
        .join(of_all.where("value is not null"), on=["attribute", "value"], how="inner")
        .join(all_events, on="attribute", how="inner")
        .join(sizes, on="segment", how="inner")
        .where(F.col("num_customers") >= LEAST_MEMBER_SHARE * F.col("num_members"))
        .withColumn("share", F.col("times") / F.col("num_events"))
        .withColumn("share_of_all", F.col("times_of_all") / F.col("num_events_of_all"))
        .where(F.col("share") >= LEAST_RATIO * F.col("share_of_all"))
    )
    surprise = F.col("share") * F.log(F.col("share") / F.col("share_of_all"))
    in_order = Window.partitionBy("segment", "attribute").orderBy(F.desc(surprise), "value")
    ranked = told.withColumn("rank", F.row_number().over(in_order)).where(F.col("rank") <= num_values)
    return ranked.select("segment", "attribute", "value", "share", "share_of_all", "rank")


def _entries(name: str, kind: Literal["categorical", "set"]) -> Column:
    """An event's values of an attribute and one null, each as (attribute, value); empty where it has none."""
    held = F.col(name) if kind == "set" else F.array(F.col(name))
    values = F.array_distinct(F.filter(F.coalesce(held.cast("array<string>"), F.array()), lambda x: x.isNotNull()))
    with_total = F.when(F.size(values) > 0, F.concat(values, F.array(F.lit(None).cast("string")))).otherwise(F.array())
    return F.transform(with_total, lambda value: F.struct(F.lit(name).alias("attribute"), value.alias("value")))


def _rate_of(source: str) -> str:
    return f"{source}: events per {PERIOD_DAYS} days"


def _rate_of_sum(attribute: str) -> str:
    return f"{attribute} per {PERIOD_DAYS} days"


def _mean_of(attribute: str) -> str:
    return f"{attribute} of an event, mean"
