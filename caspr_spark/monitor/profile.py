"""What the new events of a run's customers are made of: values, unknown and missing ones, numbers, by attribute."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from caspr_spark.manifest import Layout
from caspr_spark.monitor.sketch import NUMBER_BINS_A_UNIT
from schemas.vocabulary import FIRST_VALUE_ID, PADDING_ID, UNKNOWN_ID

_MAX_VALUES = 100
"""Values kept of an attribute, the most frequent ones: at most 100 have 1 % or more."""
_PROFILE = -1
"""In the place of an event's number: the customer's profile."""


def new_values(sequences: DataFrame, layout: Layout, *, since_micros: int, left_out: Sequence[str]) -> DataFrame:
    """Sequences (see manifest.py) -> measure, name, bin, customer_id, times, of the events from `since_micros` (after
    1970-01-01 UTC) on and of the profiles, without the attributes in `left_out`.

    Measures: `value` (bin: the id as text), `known` (known, unknown), `present` (present, missing), `number` (bin:
    floor(4 * sign(x) * log1p(|x|))).
    """
    num_new = F.size(F.filter("event_times", lambda time: time >= F.lit(since_micros)))
    by_customer = sequences.repartition("customer_id")  # what is counted of a customer then stays where it is
    recent = by_customer.withColumns({"num_new": num_new, "num_old": F.col("num_events") - num_new})
    # A row an event, and one for the profile: compiled code then, where functions of the elements would be interpreted.
    rows = recent.select("*", F.explode(F.sequence(F.lit(_PROFILE), F.col("num_new") - 1)).alias("event"))
    ids = {
        "categorical": [(attribute.name, True) for attribute in layout.categorical],
        "sets": [(attribute.name, place == 0) for attribute in layout.sets for place in range(attribute.max_values)],
        "profile_categorical": [(attribute.name, True) for attribute in layout.profile_categorical],
    }
    numbers = {"numerical": layout.numerical, "profile_numerical": layout.profile_numerical}
    told = [
        one
        for array, slots in ids.items()
        for place, (name, tells_missing) in enumerate(slots)
        if name not in left_out
        for one in _told_of_id(name, _element(array, place, len(slots)), tells_missing=tells_missing)
    ]
    told += [
        one
        for array, names in numbers.items()
        for place, name in enumerate(names)
        for one in _told_of_number(name, _element(array, place, len(names)))
    ]
    exploded = rows.select("customer_id", F.explode(F.array(*told)).alias("told")).where("told is not null")
    return exploded.groupBy("told.measure", "told.name", "told.bin", "customer_id").agg(
        F.count(F.lit(1)).alias("times")
    )


def _told_of_id(name: str, id_: Column, *, tells_missing: bool) -> list[Column]:
    """What an id tells; `tells_missing`: whether an empty place says that the attribute is missing."""
    is_present, is_known = id_ != PADDING_ID, id_ != UNKNOWN_ID
    told = [
        F.when(is_present, _bin("known", name, F.when(is_known, "known").otherwise("unknown"))),
        F.when(id_ >= FIRST_VALUE_ID, _bin("value", name, id_.cast("string"))),
    ]
    if tells_missing:
        told.append(F.when(id_.isNotNull(), _bin("present", name, F.when(is_present, "present").otherwise("missing"))))
    return told


def _told_of_number(name: str, number: Column) -> list[Column]:
    x = number.cast("double")
    bin_ = F.floor(F.signum(x) * F.log1p(F.abs(x)) * NUMBER_BINS_A_UNIT).cast("int").cast("string")
    return [
        F.when(x.isNotNull(), _bin("present", name, F.when(F.isnan(x), "missing").otherwise("present"))),
        F.when(~F.isnan(x) & x.isNotNull(), _bin("number", name, bin_)),
    ]


def _element(array: str, place: int, width: int) -> Column:
    """What a flat array holds for the row's event, or for the profile; null where the row is of the other."""
    if array.startswith("profile_"):
        return F.when(F.col("event") == _PROFILE, F.get(array, F.lit(place)))
    index = (F.col("num_old") + F.col("event")) * width + place
    return F.when(F.col("event") != _PROFILE, F.get(array, index))


def _bin(measure: str, name: str, bin_: Column) -> Column:
    return F.struct(F.lit(measure).alias("measure"), F.lit(name).alias("name"), bin_.alias("bin"))


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
