"""Small tables for the report: counts over time, a sample of customers, and what they go for."""

from datetime import datetime

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F


def daily_events(events: DataFrame) -> DataFrame:
    """`events` -> source, event_date (UTC), num_events."""
    date = F.to_date("event_time").alias("event_date")
    return events.groupBy("source", date).agg(F.count(F.lit(1)).alias("num_events"))


def sampled_customers(run: DataFrame, events: DataFrame, *, money: str | None, as_of: datetime, size: int) -> DataFrame:
    """At most `size` customers of a run, always the same ones: customer_id, embedding, num_events, money, recency_days.

    `num_events` and `money` are of all events before `as_of` (UTC); money is 0 where none is declared or known.
    """
    sample = run.orderBy(F.xxhash64("customer_id"), "customer_id").limit(size).select("customer_id", "embedding")
    past = events.where(F.col("event_time") < F.lit(as_of))
    past = past.join(F.broadcast(sample.select("customer_id")), on="customer_id", how="left_semi")
    amount = F.sum(money) if money else F.lit(None)
    last = F.max("event_time")
    totals = past.groupBy("customer_id").agg(
        F.count(F.lit(1)).alias("num_events"),
        F.coalesce(amount, F.lit(0.0)).alias("money"),
        ((F.unix_micros(F.lit(as_of)) - F.unix_micros(last)) / 86_400e6).alias("recency_days"),
    )
    return sample.join(totals, on="customer_id", how="inner")


def typical_values(
    events: DataFrame, customers: DataFrame, *, attribute: str, as_of: datetime, num_values: int
) -> DataFrame:
    """What sets customers apart: customer_id, value, times, rank (1 is first), for the `customers` alone.

    Ranked by share · ln(share / everyone's share) of the attribute's values before `as_of` (UTC), so that what
    everybody goes for does not fill the list.
    """
    is_set = events.schema[attribute].dataType.typeName() == "array"
    past = events.where((F.col("event_time") < F.lit(as_of)) & F.col(attribute).isNotNull())
    value = F.explode(attribute) if is_set else F.col(attribute)
    values = past.select("customer_id", value.alias("value"))
    everyone = values.groupBy("value").agg(F.count(F.lit(1)).alias("times_of_all"))
    all_values = everyone.agg(F.sum("times_of_all").alias("num_values_of_all"))
    of_customer = Window.partitionBy("customer_id")
    own = values.join(F.broadcast(customers.select("customer_id")), on="customer_id", how="left_semi")
    counted = own.groupBy("customer_id", "value").agg(F.count(F.lit(1)).alias("times"))
    shares = counted.withColumn("share", F.col("times") / F.sum("times").over(of_customer))
    told = shares.join(everyone, on="value", how="inner").join(F.broadcast(all_values), how="cross")
    share_of_all = F.col("times_of_all") / F.col("num_values_of_all")
    surprise = F.col("share") * F.log(F.col("share") / share_of_all)
    ranked = told.withColumn("rank", F.row_number().over(of_customer.orderBy(F.desc(surprise), "value")))
    return ranked.where(F.col("rank") <= num_values).select("customer_id", "value", "times", "rank")
