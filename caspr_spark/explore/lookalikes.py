"""Customers whose vectors point where those of a list of customers do."""

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F


def mean_direction(vectors: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Mean of the normalised vectors (customers × numbers) at length 1; None where no vector has a direction."""
    norms = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    if not usable.any():
        return None
    mean = (vectors[usable] / norms[usable, None]).mean(axis=0)
    length = np.linalg.norm(mean)
    return None if length < 1e-12 else np.asarray(mean / length)


def similarities(run: DataFrame, direction: NDArray[np.float64]) -> DataFrame:
    """customer_id and the cosine of each vector to `direction` (of length 1); vectors without a direction left out."""
    other = F.array(*[F.lit(float(number)) for number in direction])
    own = F.col("embedding").cast("array<double>")
    norm, dot = F.sqrt(_sum(F.transform(own, lambda x: x * x))), _sum(F.zip_with(own, other, lambda x, y: x * y))
    similarity = F.when((norm > 0) & (norm < float("inf")), dot / norm)
    return run.select("customer_id", similarity.alias("similarity")).where("similarity is not null")


def lookalikes(similar: DataFrame, listed: DataFrame, *, num: int) -> DataFrame:
    """`similarities` -> the `num` most similar, without those `listed` (customer_id)."""
    others = similar.join(F.broadcast(listed.select("customer_id")), on="customer_id", how="left_anti")
    return others.orderBy(F.desc("similarity"), "customer_id").limit(num)


def _sum(numbers: Column) -> Column:
    return F.aggregate(numbers, F.lit(0.0), lambda total, x: total + x)
