"""Who a task asks about, what the answer is, and features made by hand; checked for what they know of the future."""

from datetime import datetime
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.config import Task
from caspr_spark.evaluate.leaks import refuse_future_features, sampled
from caspr_spark.evaluate.next_values import value_counts
from caspr_spark.evaluate.rfm import rfm_features
from caspr_spark.evaluate.tasks import attribute_labels, task_labels
from caspr_spark.session import local_frame

FIRST_VALUE, ATTRIBUTE = "first_value", "attribute"
NO_FEATURES = ["customer_id", "label", "rule", "embedding"]
"""Columns of `labelled_customers` that are not made by hand."""


def labelled_customers(
    events: DataFrame, run: DataFrame, *, task: Task, cut: datetime, profiles: DataFrame | None = None
) -> DataFrame:
    """The population of a task that has a vector: customer_id, label, rule, embedding and the RFM features.

    Of a ranking: label is whether any value comes within the horizon. Of it and of attribute, rule is 0. `profiles`:
    as of the cut; needed by attribute alone.
    """
    if task.ranks:
        counted = value_counts(events, **_what_comes(task), cut=cut)
        labels = counted.groupBy("customer_id").agg((F.sum("num_after") > 0).cast("double").alias("label"))
        labels = labels.withColumn("rule", F.lit(0.0))
    elif task.kind == ATTRIBUTE:
        assert profiles is not None  # the caller has them where a task asks for them
        asked = task.model_dump(include={"source", "attribute", "values", "active_days"})
        labels = attribute_labels(events, profiles, **asked, cut=cut).withColumn("rule", F.lit(0.0))
    else:
        labels = task_labels(events, cut=cut, **task.model_dump(exclude={"ignored"}))
    vectors = run.select("customer_id", "embedding")
    others = [name for name in dict.fromkeys((task.event, task.after)) if name and name != task.source]
    features = rfm_features(events, source=task.source, money=task.money, cut=cut, others=others)
    return labels.join(vectors, on="customer_id", how="inner").join(features, on="customer_id", how="inner")


def checked_customers(
    events: DataFrame, run: DataFrame, *, name: str, task: Task, cut: datetime, profiles: DataFrame | None = None
) -> pd.DataFrame:
    """`labelled_customers` of the task `name`, by customer_id.

    Raises:
        UnsafeError: naming the features that are others for a sample of the customers when the events at and after the
            cut are taken away.
    """
    customers = labelled_customers(events, run, task=task, cut=cut, profiles=profiles).toPandas()
    chosen = sampled(customers["customer_id"])
    again = labelled_customers(_past_of(events, chosen, cut=cut), run, task=task, cut=cut, profiles=profiles)
    made, made_without_future = (
        table[[column for column in table.columns if column not in ("label", "embedding")]]
        for table in (customers[customers["customer_id"].isin(chosen)], again.drop("embedding").toPandas())
    )
    refuse_future_features(made, made_without_future, keys=["customer_id"], task=name, cut=cut)
    return customers.sort_values("customer_id")


def checked_counts(events: DataFrame, *, name: str, task: Task, cut: datetime) -> pd.DataFrame:
    """`value_counts` of the task `name`, a ranking. Raises UnsafeError as `checked_customers`."""
    counted = value_counts(events, **_what_comes(task), cut=cut).toPandas()
    chosen = sampled(counted["customer_id"].unique())
    again = value_counts(_past_of(events, chosen, cut=cut), **_what_comes(task), cut=cut).toPandas()
    keys = ["customer_id", "value"]
    made, made_without_future = (
        table[table["value"].notna() & (table["num_before"] > 0)][[*keys, "num_before"]]
        for table in (counted[counted["customer_id"].isin(chosen)], again)
    )
    refuse_future_features(made, made_without_future, keys=keys, task=name, cut=cut)
    return counted


def _past_of(events: DataFrame, customers: list[str], *, cut: datetime) -> DataFrame:
    """The events before the cut of these few customers."""
    chosen = local_frame(events.sparkSession, [(customer,) for customer in customers], "customer_id string")
    past = events.where(F.col("event_time") < F.lit(cut))
    return past.join(F.broadcast(chosen), on="customer_id", how="left_semi")


def _what_comes(task: Task) -> dict[str, Any]:
    asked = task.model_dump(include={"source", "attribute", "active_days", "horizon_days", "ignored"})
    return asked | {"only_first": task.kind == FIRST_VALUE}
