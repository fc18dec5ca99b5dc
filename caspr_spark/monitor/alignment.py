"""Two models' vectors of the same customers, turned onto one another: how far a new model sees what the old one saw."""

from typing import NamedTuple

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.monitor.sketch import Floats

_CUSTOMERS_A_COORDINATE = 8, 40
"""Fewest customers for a fit and its check, and most that are taken, for each number in a vector."""


class Alignment(NamedTuple):
    """Mean cosines after the best rotation and reflection (orthogonal Procrustes, Schönemann 1966), of customers that
    it was not fitted on: with their own vector, and for comparison with another customer's."""

    num_fitted: int
    num_held_out: int
    held_out_cosine: float
    other_customers_cosine: float


def alignment_text(quality: Alignment) -> str:
    """What the numbers say, to follow "turned onto the new model's vectors, "."""
    return (
        f"those of the model before have a mean cosine of {quality.held_out_cosine:.3f} in "
        f"{quality.num_held_out:,.0f} customers outside the fit ({quality.other_customers_cosine:.3f} with another "
        "customer's)"
    )


def vectors_of_both(run: DataFrame, older: DataFrame, *, size: int) -> DataFrame:
    """Rows of CUSTOMER_EMBEDDING_HISTORY by two models -> older, newer: vectors of at most 40 `size` customers of both,
    always the same ones."""
    newer = run.select("customer_id", F.col("embedding").alias("newer"))
    pairs = newer.join(older.select("customer_id", F.col("embedding").alias("older")), on="customer_id", how="inner")
    sample = pairs.orderBy(F.xxhash64("customer_id"), "customer_id").limit(size * _CUSTOMERS_A_COORDINATE[1])
    return sample.select("older", "newer")


def alignment(older: Floats, newer: Floats) -> Alignment | None:
    """Fit on every second customer, checked on the others. Rows are customers, columns numbers of their vectors.

    Vectors that are zero or not finite are left out. None where the lengths differ or fewer than 8 customers a number
    are left.
    """
    if older.shape != newer.shape:
        return None
    norms = np.linalg.norm(older, axis=1) * np.linalg.norm(newer, axis=1)
    is_sound = np.isfinite(norms) & (norms > 0)
    if is_sound.sum() < older.shape[1] * _CUSTOMERS_A_COORDINATE[0] or not older.shape[1]:
        return None
    old, new = (vectors[is_sound] / np.linalg.norm(vectors[is_sound], axis=1)[:, None] for vectors in (older, newer))
    left, _, right = np.linalg.svd(old[::2].T @ new[::2])
    turned, held_out = old[1::2] @ (left @ right), new[1::2]
    return Alignment(
        num_fitted=len(old[::2]),
        num_held_out=len(held_out),
        held_out_cosine=float(np.mean(np.sum(turned * held_out, axis=1))),
        other_customers_cosine=float(np.mean(np.sum(turned * np.roll(held_out, 1, axis=0), axis=1))),
    )
