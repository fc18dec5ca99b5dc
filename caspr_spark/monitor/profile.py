"""What the new events of a run's customers are made of: values, unknown and missing ones, numbers, by attribute."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from caspr_spark.manifest import Layout
from caspr_spark.monitor.sketch import NUMBER_BINS_A_UNIT
from schemas.vocabulary import FIRST_VALUE_ID, PADDING_ID, UNKNOWN_ID

_MAX_VALUES = 100
"""Values kept of an attribute, the most frequent ones: at most 100 have 1 % or more."""


def new_values(sequences: DataFrame, layout: Layout, *, since_micros: int, left_out: Sequence[str]) -> DataFrame:
    """Sequences (see manifest.py) -> measure, name, bin, customer_id, times, of the events from `since_micros` (after
    1970-01-01 UTC) on and of the profiles, without the attributes in `left_out`.

    Measures: `value` (bin: the id as text), `known` (known, unknown), `present` (present, missing), `number` (bin:
    floor(4 * sign(x) * log1p(|x|))).
    """
    num_new = F.size(F.filter("event_times", lambda time: time >= F.lit(since_micros)))
    by_customer = sequences.repartition("customer_id")  # what is counted of a customer then stays where it is
    recent = by_customer.withColumn("num_new", num_new).withColumn("num_old", F.col("num_events") - F.col("num_new"))
    sets = [(attribute.name, place == 0) for attribute in layout.sets for place in range(attribute.max_values)]
    ids = {
        "categorical": [(attribute.name, True) for attribute in layout.categorical],
        "sets": sets,
        "profile_categorical": [(attribute.name, True) for attribute in layout.profile_categorical],
    }
    numbers = {"numerical": layout.numerical, "profile_numerical": layout.profile_numerical}
    told = [_told_of_ids(array, slots) for array, slots in ids.items() if slots]
    told += [_told_of_numbers(array, names) for array, names in numbers.items() if names]
    exploded = recent.select("customer_id", F.explode(F.concat(*told)).alias("told")).where("told is not null")
    counted = exploded.groupBy("told.measure", "told.name", "told.bin", "customer_id").agg(
        F.count(F.lit(1)).alias("times")
    )
    return counted.where(~F.col("name").isin(list(left_out)))


def _told_of_ids(array: str, slots: Sequence[tuple[str, bool]]) -> Column:
    """What each id of a flat array tells. Slots: attribute, and whether an empty slot says that it is missing."""

    def told(id_: Column, place: Column) -> Column:
        name = _of_slot([name for name, _ in slots], place)
        tells_missing = _of_slot([tells for _, tells in slots], place)
        is_present, is_known = id_ != PADDING_ID, id_ != UNKNOWN_ID
        return F.array(
            F.when(tells_missing, _bin("present", name, F.when(is_present, "present").otherwise("missing"))),
            F.when(is_present, _bin("known", name, F.when(is_known, "known").otherwise("unknown"))),
            F.when(id_ >= FIRST_VALUE_ID, _bin("value", name, id_.cast("string"))),
        )

    return F.flatten(F.transform(_elements(array, len(slots)), told))


def _told_of_numbers(array: str, names: Sequence[str]) -> Column:
    def told(number: Column, place: Column) -> Column:
        name, x = _of_slot(names, place), number.cast("double")
        bin_ = F.floor(F.signum(x) * F.log1p(F.abs(x)) * NUMBER_BINS_A_UNIT).cast("int").cast("string")
        return F.array(
            _bin("present", name, F.when(F.isnan(x), "missing").otherwise("present")),
            F.when(~F.isnan(x), _bin("number", name, bin_)),
        )

    return F.flatten(F.transform(_elements(array, len(names)), told))


def _elements(array: str, width: int) -> Column:
    """Of a flat array of events, those of the new ones; of a profile's array, all."""
    if array.startswith("profile_"):
        return F.col(array)
    return F.slice(array, F.col("num_old") * width + 1, F.col("num_new") * width)


def _of_slot(values: Sequence[str | bool], place: Column) -> Column:
    return F.element_at(F.array(*map(F.lit, values)), (place % len(values) + 1).cast("int"))


def _bin(measure: str, name: Column, bin_: Column) -> Column:
    return F.struct(F.lit(measure).alias("measure"), name.alias("name"), bin_.alias("bin"))


def clustered_counts(values: DataFrame) -> DataFrame:
    """`new_values` -> measure, name, bin, value, squares, customers, as `sketch.Counts` explains; of `value` the most
    frequent bins."""
    weight = F.sum("times").over(Window.partitionBy("measure", "name", "customer_id"))
    bins = (
        values.withColumn("weight", weight)
        .groupBy("measure", "name", "bin")
        .agg(
            F.sum("times").alias("value"),
            F.sum(F.col("times") * F.col("times")).alias("times_squares"),
            F.sum(F.col("times") * F.col("weight")).alias("products"),
        )
    )
    of_name = Window.partitionBy("measure", "name")
    total, weight_squares = F.sum("value").over(of_name), F.sum("products").over(of_name)
    share = F.col("value") / F.col("total")
    squares = F.col("times_squares") - 2 * share * F.col("products") + share * share * F.col("weight_squares")
    return (
        bins.withColumns({"total": total, "weight_squares": weight_squares})
        .withColumn("rank", F.row_number().over(of_name.orderBy(F.desc("value"), "bin")))
        .where((F.col("measure") != "value") | (F.col("rank") <= _MAX_VALUES))
        .select(
            "measure",
            "name",
            "bin",
            F.col("value").cast("double").alias("value"),
            F.greatest(squares, F.lit(0.0)).alias("squares"),
            (F.col("total") * F.col("total") / F.col("weight_squares")).alias("customers"),
        )
    )


def named_values(counts: DataFrame, vocabulary: DataFrame) -> DataFrame:
    """`clustered_counts` with the vocabulary's value in place of each id."""
    values = vocabulary.select(
        F.lit("value").alias("measure"),
        F.col("attribute").alias("name"),
        F.col("id").cast("string").alias("bin"),
        F.col("value").alias("text"),
    )
    named = counts.join(values, on=["measure", "name", "bin"], how="left")
    return named.withColumn("bin", F.coalesce("text", "bin")).select(*counts.columns)


def segments(values: DataFrame, vocabulary: DataFrame, *, attributes: Sequence[str]) -> DataFrame:
    """`new_values` -> customer_id, segment (`attribute=value`): each value of these attributes that a customer has."""
    own = values.where((F.col("measure") == "value") & F.col("name").isin(list(attributes)))
    texts = vocabulary.select(
        F.col("attribute").alias("name"), F.col("id").cast("string").alias("bin"), F.col("value").alias("text")
    )
    named = own.join(texts, on=["name", "bin"], how="inner")
    return named.select("customer_id", F.concat_ws("=", "name", "text").alias("segment")).distinct()
