"""Vocabulary (value -> id, without collisions, after Monolith) and scaling statistics, fitted on training customers."""

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from caspr_spark.session import local_frame
from caspr_spark.tables import empty_table
from schemas.vocabulary import FIRST_VALUE_ID, SCALING, UNKNOWN_ID, VOCABULARY

_LEAST_LOSS = 0.1  # nats; an attribute that hardly varies must not be blown up by the division
_DECIMALS = 9  # of a statistic: beyond, the order in which Spark adds decides, and a refit must give the same numbers
_COUNTS = "attribute string, value string, num_occurrences bigint"


def value_counts(table: DataFrame, *, categorical: Sequence[str], sets: Sequence[str]) -> DataFrame:
    """(attribute, value, num_occurrences) of every categorical and set-valued column, nulls left out."""
    parts = [table.select(F.lit(name).alias("attribute"), F.col(name).alias("value")) for name in categorical]
    parts += [table.select(F.lit(name).alias("attribute"), F.explode(name).alias("value")) for name in sets]
    if not parts:
        return local_frame(table.sparkSession, [], _COUNTS)
    values = reduce(DataFrame.unionAll, parts).where(F.col("value").isNotNull())
    return values.groupBy("attribute", "value").agg(F.count(F.lit(1)).alias("num_occurrences"))


def grown_vocabulary(known: DataFrame, counts: DataFrame, *, min_count: int) -> DataFrame:
    """VOCABULARY and counts -> VOCABULARY: ids once given never change; new values follow, the most frequent first."""
    merged = known.select("attribute", "value", "id", F.col("num_occurrences").alias("before")).join(
        counts, on=["attribute", "value"], how="full"
    )
    admitted = merged.where(F.col("id").isNotNull() | (F.col("num_occurrences") >= min_count))
    highest = known.groupBy("attribute").agg(F.max("id").alias("highest"))
    rank = F.row_number().over(
        Window.partitionBy("attribute", F.col("id").isNull()).orderBy(F.desc("num_occurrences"), "value")
    )
    next_id = F.coalesce("highest", F.lit(FIRST_VALUE_ID - 1)) + rank
    return (
        admitted.join(highest, on="attribute", how="left")
        .select(
            "attribute",
            "value",
            F.coalesce("id", next_id).cast("int").alias("id"),
            F.coalesce("num_occurrences", "before").alias("num_occurrences"),
        )
        .select(*VOCABULARY.column_names)
    )


def vocabulary_sizes(vocabulary: DataFrame) -> dict[str, int]:
    """Attribute -> number of ids, the three reserved ones included."""
    sizes = vocabulary.groupBy("attribute").agg((F.max("id") + 1).alias("num_ids")).collect()
    return {row["attribute"]: row["num_ids"] for row in sizes}


def vocabulary_hash(vocabulary: DataFrame) -> str:
    """Content hash of (attribute, value, id), whatever the order of the rows."""
    row_hash = F.xxhash64("attribute", "value", "id")
    row = vocabulary.agg(F.bit_xor(row_hash), F.count(F.lit(1))).first()
    return f"{(row[0] or 0) & (2**64 - 1):016x}-{row[1]}" if row else ""


def signed_log1p(value: Column) -> Column:
    """sign(x) * log1p(|x|): tames heavy tails, keeps the sign and 0. The model applies the same to its input."""
    return F.signum(value) * F.log1p(F.abs(value))


def numerical_scaling(table: DataFrame, *, numerical: Sequence[str]) -> DataFrame:
    """SCALING of the numerical columns: count, mean and standard deviation (at least 1e-6) of signed log1p."""
    if not numerical:
        return empty_table(table.sparkSession, SCALING)
    statistics = [
        F.struct(
            F.lit(name).alias("attribute"),
            F.count(name).alias("count"),
            F.round(F.coalesce(F.avg(signed_log1p(F.col(name))), F.lit(0.0)), _DECIMALS).alias("mean"),
            F.round(
                F.greatest(F.coalesce(F.stddev_pop(signed_log1p(F.col(name))), F.lit(1.0)), F.lit(1e-6)), _DECIMALS
            ).alias("standard_deviation"),
            F.lit(1.0).alias("constant_loss"),
        )
        for name in numerical
    ]
    return table.agg(F.array(*statistics).alias("all")).select(F.inline("all")).select(*SCALING.column_names)


def categorical_scaling(
    table: DataFrame, counts: DataFrame, vocabulary: DataFrame, *, categorical: Sequence[str], sets: Sequence[str]
) -> DataFrame:
    """SCALING of the categorical and set-valued columns: the expected loss of the best constant guess, in nats.

    Categorical: entropy of the ids. Set: the ids' Bernoulli entropies, summed. At least 0.1.
    """
    present = [F.struct(F.lit(name).alias("attribute"), F.count(name).alias("count")) for name in [*categorical, *sets]]
    if not present:
        return empty_table(table.sparkSession, SCALING)
    presence = table.agg(F.array(*present).alias("all")).select(F.inline("all"))
    ids = counts.join(vocabulary.select("attribute", "value", "id"), on=["attribute", "value"], how="left")
    per_id = ids.groupBy("attribute", F.coalesce("id", F.lit(UNKNOWN_ID)).alias("id")).agg(
        F.sum("num_occurrences").alias("occurrences")
    )
    share = F.least(F.col("occurrences") / F.col("count"), F.lit(1.0))
    is_set = F.col("attribute").isin(list(sets)) if sets else F.lit(False)
    absent = F.when(is_set & (share < 1), -(1 - share) * F.log(1 - share)).otherwise(0.0)
    losses = (
        presence.join(per_id, on="attribute", how="left")
        .groupBy("attribute", "count")
        .agg(F.sum(-share * F.log(share) + absent).alias("nats"))
    )
    return losses.select(
        "attribute",
        "count",
        F.lit(None).cast("double").alias("mean"),
        F.lit(None).cast("double").alias("standard_deviation"),
        F.round(F.greatest(F.coalesce("nats", F.lit(0.0)), F.lit(_LEAST_LOSS)), _DECIMALS).alias("constant_loss"),
    )
