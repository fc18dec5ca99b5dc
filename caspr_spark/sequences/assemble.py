"""Newest events -> one row of fixed-length, flattened arrays a customer (the columns of `caspr_spark.manifest`)."""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from caspr_spark.manifest import Layout
from schemas.vocabulary import PADDING_ID, UNKNOWN_ID


def with_ids(table: DataFrame, vocabulary: DataFrame, *, attributes: list[str]) -> DataFrame:
    """Categorical columns as vocabulary ids: 0 where null, 1 where the value has no id."""
    for name in attributes:
        ids = vocabulary.where(F.col("attribute") == name).select(
            F.col("value").alias(name), F.col("id").alias("its_id")
        )
        joined = table.join(F.broadcast(ids), on=name, how="left")
        known = F.when(F.col(name).isNull(), PADDING_ID).otherwise(F.coalesce("its_id", F.lit(UNKNOWN_ID)))
        table = joined.select(*[known.alias(name) if column == name else F.col(column) for column in table.columns])
    return table


def with_set_ids(events: DataFrame, vocabulary: DataFrame, *, max_values: Mapping[str, int]) -> DataFrame:
    """Set-valued columns as arrays of `max_values` ids: the values in their order, then 0."""
    for name, width in max_values.items():
        ids = vocabulary.where(F.col("attribute") == name).select("value", F.col("id").alias("its_id"))
        values = events.select("event_id", F.posexplode(name).alias("place", "value"))
        found = (
            values.join(F.broadcast(ids), on="value", how="left")
            .groupBy("event_id")
            .agg(
                F.sort_array(
                    F.collect_list(F.struct("place", F.coalesce("its_id", F.lit(UNKNOWN_ID)).alias("id")))
                ).alias("found")
            )
        )
        padded = _padded(F.coalesce(F.col("found.id"), F.array().cast("array<int>")), width, F.lit(PADDING_ID))
        events = events.drop(name).join(found, on="event_id", how="left").withColumn(name, padded).drop("found")
    return events


def customer_sequences(events: DataFrame, profiles: DataFrame, *, layout: Layout) -> DataFrame:
    """Events and profiles with ids -> one row a customer, oldest event first, padding at the end.

    Events of equal time stand in the order of their event_id. A customer without a profile has ids 0 and NaN there.
    """
    categorical = [attribute.name for attribute in layout.categorical]
    sets = [attribute.name for attribute in layout.sets]
    event = F.struct(
        "event_time",
        "event_id",
        F.unix_micros("event_time").alias("micros"),
        _int_array([F.col(name) for name in categorical]).alias("categorical"),
        F.concat(*[F.col(name) for name in sets]).alias("sets") if sets else _int_array([]).alias("sets"),
        _float_array([F.col(name) for name in layout.numerical]).alias("numerical"),
    )
    gathered = events.groupBy("customer_id").agg(F.sort_array(F.collect_list(event)).alias("events"))
    joined = gathered.join(profiles, on="customer_id", how="left")
    length = layout.max_events
    flat = {
        "event_times": (_padded(F.col("events.micros"), length, F.lit(0).cast("bigint")), 1),
        "categorical": (_flattened("categorical", length * len(categorical), F.lit(PADDING_ID)), len(categorical)),
        "sets": (_flattened("sets", length * layout.set_width, F.lit(PADDING_ID)), layout.set_width),
        "numerical": (
            _flattened("numerical", length * len(layout.numerical), F.lit(0.0).cast("float")),
            len(layout.numerical),
        ),
        "profile_categorical": (
            _int_array([F.coalesce(F.col(a.name), F.lit(PADDING_ID)) for a in layout.profile_categorical]),
            len(layout.profile_categorical),
        ),
        "profile_numerical": (
            _float_array([F.col(name) for name in layout.profile_numerical]),
            len(layout.profile_numerical),
        ),
    }
    return joined.select(
        "customer_id",
        F.xxhash64("customer_id").alias("customer_key"),
        F.size("events").alias("num_events"),
        *[value.alias(name) for name, (value, width) in flat.items() if width],
    )


def _flattened(field: str, length: int, filler: Column) -> Column:
    return _padded(F.flatten(F.transform("events", lambda event: event[field])), length, filler)


def _padded(values: Column, length: int, filler: Column) -> Column:
    return F.concat(values, F.array_repeat(filler, F.lit(length) - F.size(values)))


def _int_array(values: list[Column]) -> Column:
    return F.array(*[value.cast("int") for value in values]).cast("array<int>")


def _float_array(values: list[Column]) -> Column:
    absent = F.lit(float("nan"))
    return F.array(*[F.coalesce(value, absent).cast("float") for value in values]).cast("array<float>")
