"""How much a run covers, and what it could not name: coverage, unknown shares, norms, lengths."""

from datetime import datetime
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.manifest import Layout
from caspr_spark.monitor.drift import QUANTILES, is_finite_norm, quantiles, vector_norm
from schemas.vocabulary import PADDING_ID, UNKNOWN_ID


def known_customers(events: DataFrame, *, as_of: datetime) -> DataFrame:
    """`events` -> the distinct customer_id with an event before `as_of` (UTC, exclusive)."""
    return events.where(F.col("event_time") < F.lit(as_of)).select("customer_id").distinct()


def run_numbers(run: DataFrame) -> DataFrame:
    """One run's rows -> one row of metric names and values; keys after a colon.

    Vectors that are zero or not finite are counted, and left out of the norms.
    """
    norm = F.col("norm")
    is_finite = is_finite_norm(norm)
    counted = run.select(vector_norm(F.col("embedding")).alias("norm"), "num_events").agg(
        F.count(F.lit(1)).alias("customers_embedded"),
        F.count_if(is_finite & (norm == 0)).alias("zero_vectors"),
        F.count_if(~is_finite).alias("not_finite_vectors"),
        quantiles(F.when(is_finite & (norm > 0), norm)).alias("norms"),
        quantiles(F.col("num_events")).alias("lengths"),
    )
    arrays = {"norm": "norms", "sequence_length": "lengths"}
    named = [
        F.col(f"{array}.{name}").alias(f"{metric}:{name}") for metric, array in arrays.items() for name in QUANTILES
    ]
    return counted.select("customers_embedded", "zero_vectors", "not_finite_vectors", *named)


def unknown_counts(sequences: DataFrame, layout: Layout) -> DataFrame:
    """Sequences (see manifest.py) -> attribute, num_values, num_unknown, over all customers' real events.

    A set counts each of its values; an attribute that no customer has is not there.
    """
    slots = {
        "categorical": [attribute.name for attribute in layout.categorical],
        "sets": [attribute.name for attribute in layout.sets for _ in range(attribute.max_values)],
        "profile_categorical": [attribute.name for attribute in layout.profile_categorical],
    }
    counted = [_slot_counts(sequences, array, names) for array, names in slots.items() if names]
    nothing = sequences.limit(0).select(*(F.lit(value).alias(name) for name, value in _NO_COUNTS.items()))
    return reduce(DataFrame.unionByName, counted, nothing)


_NO_COUNTS = {"attribute": "", "num_values": 0, "num_unknown": 0}


def _slot_counts(sequences: DataFrame, array: str, names: list[str]) -> DataFrame:
    """Counts of one flat array in which element i belongs to attribute `names[i % len(names)]`."""
    elements = sequences.select(F.posexplode(array).alias("position", "id")).where(F.col("id") != PADDING_ID)
    slots = elements.groupBy((F.col("position") % len(names)).alias("slot")).agg(
        F.count(F.lit(1)).alias("num_values"), F.count_if(F.col("id") == UNKNOWN_ID).alias("num_unknown")
    )
    attribute = F.element_at(F.array(*(F.lit(name) for name in names)), F.col("slot") + 1)
    return slots.groupBy(attribute.alias("attribute")).agg(
        F.sum("num_values").alias("num_values"), F.sum("num_unknown").alias("num_unknown")
    )
