"""Small tables for the report: counts over time, a sample of customers, and what they go for.

The customers are described by their sequences (manifest.py), which is what the model saw of them, so that what a report
reads follows from its run and not from the length of the history.
"""

from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from caspr_spark.manifest import Layout
from schemas.vocabulary import FIRST_VALUE_ID


def daily_events(events: DataFrame) -> DataFrame:
    """`events` -> source, event_date (UTC), num_events."""
    date = F.to_date("event_time").alias("event_date")
    return events.groupBy("source", date).agg(F.count(F.lit(1)).alias("num_events"))


def sampled_vectors(run: DataFrame, *, size: int) -> DataFrame:
    """customer_id and embedding of at most `size` customers of a run, always the same ones, in no order of theirs."""
    return run.orderBy(F.xxhash64("customer_id"), "customer_id").limit(size).select("customer_id", "embedding")


def sampled_customers(
    run: DataFrame, sequences: DataFrame, layout: Layout, *, money: str | None, as_of: datetime, size: int
) -> DataFrame:
    """At most `size` customers of a run, always the same ones: customer_id, embedding, num_events, money, recency_days.

    `num_events` and `money` (a numerical attribute) are of the events in the sequence; money is 0 where none is
    declared, or not known to the model.
    """
    sample = sampled_vectors(run, size=size)
    last = F.element_at("event_times", F.col("num_events"))
    seen = sequences.select(
        "customer_id",
        "num_events",
        (_sum_of(money, layout) if money in layout.numerical else F.lit(0.0)).alias("money"),
        ((F.unix_micros(F.lit(as_of)) - last) / 86_400e6).alias("recency_days"),
    )
    return F.broadcast(sample).join(seen, on="customer_id", how="inner")


def _sum_of(attribute: str, layout: Layout) -> Column:
    """Sum of a numerical attribute; where it is absent it is NaN, where padded 0."""
    place, width = layout.numerical.index(attribute), len(layout.numerical)
    own = F.filter("numerical", lambda x, index: (index % width == place) & ~F.isnan(x))
    return F.aggregate(own, F.lit(0.0), lambda total, x: total + x)


def typical_values(
    sequences: DataFrame,
    layout: Layout,
    vocabulary: DataFrame,
    customers: DataFrame,
    *,
    attribute: str,
    num_values: int,
) -> DataFrame:
    """What sets customers apart: customer_id, value, times, rank (1 is first), for the `customers` alone.

    Ranked by share · ln(share / everyone's share) of the values of a categorical or set attribute in the sequences, so
    that what everybody goes for does not fill the list. Values and
    attributes that the model does not know are left out.
    """
    values = sequences.select("customer_id", F.explode(_ids_of(attribute, layout)).alias("id"))
    everyone = values.groupBy("id").agg(F.count(F.lit(1)).alias("times_of_all"))
    all_values = everyone.agg(F.sum("times_of_all").alias("num_values_of_all"))
    of_customer = Window.partitionBy("customer_id")
    own = values.join(F.broadcast(customers.select("customer_id")), on="customer_id", how="left_semi")
    counted = own.groupBy("customer_id", "id").agg(F.count(F.lit(1)).alias("times"))
    shares = counted.withColumn("share", F.col("times") / F.sum("times").over(of_customer))
    told = shares.join(everyone, on="id", how="inner").join(F.broadcast(all_values), how="cross")
    told = told.join(vocabulary.where(F.col("attribute") == attribute).select("id", "value"), on="id", how="inner")
    share_of_all = F.col("times_of_all") / F.col("num_values_of_all")
    surprise = F.col("share") * F.log(F.col("share") / share_of_all)
    ranked = told.withColumn("rank", F.row_number().over(of_customer.orderBy(F.desc(surprise), "value")))
    return ranked.where(F.col("rank") <= num_values).select("customer_id", "value", "times", "rank")


def _ids_of(attribute: str, layout: Layout) -> Column:
    """The ids of an attribute's known values, over all events."""
    names = {
        "categorical": [one.name for one in layout.categorical],
        "sets": [one.name for one in layout.sets for _ in range(one.max_values)],
    }
    array = next((array for array, slots in names.items() if attribute in slots), None)
    if array is None:
        return F.array().cast("array<int>")
    own = F.array(*[F.lit(name == attribute) for name in names[array]])
    return F.filter(array, lambda id_, index: (id_ >= FIRST_VALUE_ID) & F.get(own, index % len(names[array])))
