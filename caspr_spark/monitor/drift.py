"""How far customers' vectors moved since their last ones of the same model, counted in bins by Spark.

Two models' spaces are never compared.
"""

from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from caspr_spark.monitor.sketch import DISTANCE_BINS_A_DECADE, DISTANCE_EDGES

QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
_GAPS = {0.5: "under 12 hours", 2: "12 hours to 2 days", 8: "2 to 8 days", 32: "8 to 32 days"}
"""Days, exclusive -> name: from the older to the newer vector, and from the run before to the run."""
_LONGEST_GAP = "over 32 days"


def run_at(history: DataFrame, *, as_of: datetime, model_version: str) -> DataFrame:
    """CUSTOMER_EMBEDDING_HISTORY -> the rows of the run at `as_of` by this model.

    Where several runs share both (other inputs), the one with the largest run_id, so that every reader takes the same.
    """
    same = history.where((F.col("as_of") == F.lit(as_of)) & (F.col("model_version") == model_version))
    return same.join(F.broadcast(same.agg(F.max("run_id").alias("run_id"))), on="run_id", how="left_semi")


def older_vectors(history: DataFrame, run: DataFrame) -> DataFrame:
    """CUSTOMER_EMBEDDING_HISTORY and a run of it -> of each customer of the run, the newest row of the same model and
    an earlier as_of, if there is one, in the history's columns."""
    newer = run.select("customer_id", "model_version", F.col("as_of").alias("newer_as_of"))
    earlier = history.join(newer, on=["customer_id", "model_version"], how="inner").where("as_of < newer_as_of")
    columns = [name for name in history.columns if name != "customer_id"]
    newest = F.max_by(F.struct(*columns), F.struct("as_of", "run_id")).alias("row")
    return earlier.groupBy("customer_id").agg(newest).select("customer_id", "row.*").select(*history.columns)


def vector_norm(vector: Column) -> Column:
    """Euclidean norm; NaN or infinite for a vector that is not finite."""
    return F.sqrt(_dot(vector, vector))


def is_finite_norm(norm: Column) -> Column:
    """True for the norm of a vector that is finite."""
    return ~F.isnan(norm) & (norm < F.lit(float("inf")))


def quantiles(numbers: Column) -> Column:
    """QUANTILES of a column, an aggregate: a struct of their names, null where there are no numbers."""
    found = F.percentile(numbers, F.array(*map(F.lit, QUANTILES.values())))
    return F.struct(*(found[place].alias(name) for place, name in enumerate(QUANTILES)))


def cosine_distances(newer: DataFrame, older: DataFrame) -> DataFrame:
    """Rows of CUSTOMER_EMBEDDING_HISTORY, customers of both -> customer_id, distance (0 to 2), is_zero, is_finite,
    has_new_events, gap_days.

    The distance is null where a vector is zero or not finite, or the two differ in length. New events show in the time
    of the newest event or in the number of events.
    """
    seen = ["embedding", "as_of", "last_event_time", "num_events"]
    pairs = newer.select("customer_id", F.struct(*seen).alias("newer")).join(
        older.select("customer_id", F.struct(*seen).alias("older")), on="customer_id", how="inner"
    )
    new, old = F.col("newer.embedding"), F.col("older.embedding")
    measured = pairs.withColumns({"norms": vector_norm(new) * vector_norm(old), "product": _dot(new, old)})
    norms = F.col("norms")
    is_finite = is_finite_norm(norms)
    cosine = F.greatest(F.lit(-1.0), F.least(F.lit(1.0), F.col("product") / norms))
    has_same_events = F.col("newer.last_event_time").eqNullSafe(F.col("older.last_event_time")) & F.col(
        "newer.num_events"
    ).eqNullSafe(F.col("older.num_events"))
    gap = F.unix_micros("newer.as_of") - F.unix_micros("older.as_of")
    return measured.select(
        "customer_id",
        F.when(is_finite & (norms > 0) & (F.size(new) == F.size(old)), 1 - cosine).alias("distance"),
        (is_finite & (norms == 0)).alias("is_zero"),
        is_finite.alias("is_finite"),
        (~has_same_events).alias("has_new_events"),
        (gap / 86_400e6).alias("gap_days"),
    )


def _dot(left: Column, right: Column) -> Column:
    """Inner product in double precision; a null element counts as not a number."""
    products = F.zip_with(left, right, lambda x, y: F.coalesce(x.cast("double") * y, F.lit(float("nan"))))
    return F.aggregate(products, F.lit(0.0), lambda total, x: total + x)


def distance_numbers(distances: DataFrame) -> DataFrame:
    """`cosine_distances` -> one row: num_compared, num_with_new_events, num_zero, num_not_finite, mean and the
    quantiles of the distance."""
    distance = F.col("distance")
    return distances.select(
        F.count(distance).alias("num_compared"),
        F.count_if(distance.isNotNull() & F.col("has_new_events")).alias("num_with_new_events"),
        F.count_if("is_zero").alias("num_zero"),
        F.count_if(~F.col("is_finite")).alias("num_not_finite"),
        F.mean(distance).alias("mean"),
        quantiles(distance).alias("quantiles"),
    ).select("num_compared", "num_with_new_events", "num_zero", "num_not_finite", "mean", "quantiles.*")


def distance_counts(distances: DataFrame, *, interval_days: float) -> DataFrame:
    """`cosine_distances` -> stratum, bin (of DISTANCE_EDGES), num_customers. A stratum is the gap in time, whether
    there were new events, and the days since the run before.

    With a gap of three days, a customer of a daily run has the events of one day, and stayed away on the other two; one
    of a run that catches up on three days may have those of all.
    """
    known = distances.where(F.col("distance").isNotNull())
    binned = known.select(_stratum(interval_days).alias("stratum"), _distance_bin().alias("bin"))
    return binned.groupBy("stratum", "bin").agg(F.count(F.lit(1)).alias("num_customers"))


def segment_counts(distances: DataFrame, segments: DataFrame, *, interval_days: float, max_segments: int) -> DataFrame:
    """`distances` and customer_id, segment -> segment, stratum, bin, num_customers, of the largest segments."""
    known = distances.where(F.col("distance").isNotNull())
    binned = known.select("customer_id", _stratum(interval_days).alias("stratum"), _distance_bin().alias("bin"))
    counted = (
        binned.join(segments, on="customer_id", how="inner")
        .groupBy("segment", "stratum", "bin")
        .agg(F.count(F.lit(1)).alias("num_customers"))
    )
    sizes = counted.groupBy("segment").agg(F.sum("num_customers").alias("size"))
    largest = sizes.orderBy(F.desc("size"), "segment").limit(max_segments)
    return counted.join(F.broadcast(largest.select("segment")), on="segment", how="left_semi")


def coordinate_numbers(run: DataFrame) -> DataFrame:
    """Rows with an embedding -> coordinate (from 0), mean, variance of the vectors scaled to length 1; vectors that are
    zero or not finite are left out."""
    with_norm = run.select("embedding", vector_norm(F.col("embedding")).alias("norm"))
    sound = with_norm.where(is_finite_norm(F.col("norm")) & (F.col("norm") > 0))
    numbers = sound.select("norm", F.posexplode("embedding").alias("coordinate", "x"))
    unit = F.col("x") / F.col("norm")
    return numbers.groupBy("coordinate").agg(F.mean(unit).alias("mean"), F.var_pop(unit).alias("variance"))


def _stratum(interval_days: float) -> Column:
    gap = F.lit(_LONGEST_GAP)
    for days, name in reversed(_GAPS.items()):
        gap = F.when(F.col("gap_days") < days, name).otherwise(gap)
    interval = next((name for days, name in _GAPS.items() if interval_days < days), _LONGEST_GAP)
    new = F.when(F.col("has_new_events"), "new events, ").otherwise("no new events, ")
    return F.concat(new, gap, F.lit(f", run after {interval}"))


def _distance_bin() -> Column:
    place = F.floor(F.log10("distance") * DISTANCE_BINS_A_DECADE + 6 * DISTANCE_BINS_A_DECADE) + 1
    # The logarithm of 0 is null, and a distance may be just below 0.
    return F.least(F.greatest(F.coalesce(place, F.lit(0)), F.lit(0)), F.lit(len(DISTANCE_EDGES))).cast("int")
