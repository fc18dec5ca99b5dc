"""Questions about the future. Features see strictly less than the cut; labels begin at it."""

from datetime import datetime, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.errors import UnsafeError


def churn_labels(events: DataFrame, *, source: str, cut: datetime, active_days: int, horizon_days: int) -> DataFrame:
    """`events` -> customer_id, label of the population at `cut` (UTC).

    Population: customers with an event of `source` in the `active_days` before the cut. label: 1 for none in
    [cut, cut + horizon_days), otherwise 0.
    """
    time = F.col("event_time")
    begin, end = F.lit(cut - timedelta(days=active_days)), F.lit(cut + timedelta(days=horizon_days))
    around = events.where((F.col("source") == source) & (time >= begin) & (time < end))
    counted = around.groupBy("customer_id").agg(
        F.count_if(time < F.lit(cut)).alias("num_before"), F.count_if(time >= F.lit(cut)).alias("num_after")
    )
    return counted.where(F.col("num_before") > 0).select(
        "customer_id", (F.col("num_after") == 0).cast("int").alias("label")
    )


def newest_event_time(events: DataFrame, *, source: str) -> DataFrame:
    """`events` -> one row with `microseconds`, the newest event of `source` since 1970 (UTC); null if there is none."""
    return events.where(F.col("source") == source).select(F.unix_micros(F.max("event_time")).alias("microseconds"))


def refuse_leaks(*, cut: datetime, model: datetime, sequences: datetime, embedding: datetime) -> None:
    """The times that the checkpoint's training data, the sequences and the vectors are as of must not pass the cut.

    Raises:
        UnsafeError: naming each that could have seen events at or after the cut, or is not of the cut.
    """
    problems = []
    if model > cut:
        problems.append(f"the checkpoint was trained on events up to {model.isoformat()}, after the cut")
    if sequences != cut:
        problems.append(f"the sequences are as of {sequences.isoformat()}, expected the cut")
    if embedding != cut:
        problems.append(f"the vectors are as of {embedding.isoformat()}, expected the cut")
    if problems:
        raise UnsafeError(
            f"evaluation at the cut {cut.isoformat()} refused: {'; '.join(problems)}. "
            "Train on an as_of up to the cut, and embed as of the cut."
        )
