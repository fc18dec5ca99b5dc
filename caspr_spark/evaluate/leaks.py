"""What must not happen: that a feature, a vector or a model saw the future that it is tested on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.stats import rankdata

from caspr_spark.errors import UnsafeError
from caspr_spark.evaluate.heads import Array

NUM_SAMPLED = 1000
"""Customers of whom features are made again without the future."""
ALMOST_CERTAIN = 0.995
"""AUROC of a single number above which it is called suspicious."""
LEAST_OF_KIND = 50
"""Customers of either answer that this takes."""
_ROUNDING, _ROUNDING_OF_LARGEST = 1e-6, 1e-9
"""Differences that sums in another order may have: of the number itself, and of the largest one of its feature."""


def refuse_leaks(
    *,
    cut: datetime,
    model: datetime,
    sequences: datetime,
    embedding: datetime,
    newest_events: Mapping[str, datetime | None] | None = None,
) -> None:
    """The times that the checkpoint's training data, the sequences and the vectors are as of must not pass the cut.

    Labels begin at the cut, those that heads are trained on as those that they are tested on: a checkpoint of after the
    cut was trained on what they tell. `newest_events`: what holds events (sequences, vectors) -> the time of its newest
    one, None where it has none; it must be before the cut.

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
    for name, newest in (newest_events or {}).items():
        if newest is not None and newest >= cut:
            problems.append(f"the newest event of the {name} is of {newest.isoformat()}, expected before the cut")
    if problems:
        raise UnsafeError(
            f"evaluation at the cut {cut.isoformat()} refused: {'; '.join(problems)}. "
            "Train on an as_of up to the cut, and embed as of the cut."
        )


def newest_sequence_time(sequences: DataFrame) -> DataFrame:
    """Sequence rows -> one row with `microseconds`, the newest event of all since 1970 (UTC), wherever in its sequence
    it stands; null if there is none."""
    times = F.slice("event_times", F.lit(1), F.col("num_events"))
    return sequences.select(F.max(F.array_max(times)).alias("microseconds"))


def sampled(customers: Iterable[str]) -> list[str]:
    """At most NUM_SAMPLED of these customers, by a hash of their ids: the same ones every time."""
    return sorted(customers, key=lambda customer: hashlib.sha256(customer.encode()).digest())[:NUM_SAMPLED]


def refuse_future_features(
    made: pd.DataFrame, made_without_future: pd.DataFrame, *, keys: Sequence[str], task: str, cut: datetime
) -> None:
    """Features must be the same whether or not events at and after the cut are there.

    `made`: of all events; `made_without_future`: of the same customers, of their events before the cut. Both have a
    row for each value of the columns `keys`, all other columns are features. Numbers may differ by rounding.

    Raises:
        UnsafeError: naming the features that differ, with the number of rows in which they do.
    """
    with_it, without = made.set_index(list(keys)), made_without_future.set_index(list(keys))
    everywhere = with_it.index.union(without.index)
    names = with_it.columns.union(without.columns, sort=False)
    ours, theirs = (
        table.reindex(index=everywhere, columns=names).to_numpy(dtype=float) for table in (with_it, without)
    )
    largest = np.nan_to_num(np.abs(np.vstack([ours, theirs])), nan=0.0, posinf=0.0).max(axis=0, initial=0.0)
    with np.errstate(invalid="ignore"):
        is_near = np.abs(ours - theirs) <= _ROUNDING * np.abs(ours) + _ROUNDING_OF_LARGEST * largest
    is_same = is_near | (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    changed = {name: int(count) for name, count in zip(names, (~is_same).sum(axis=0), strict=True) if count}
    if changed:
        found = ", ".join(f"{name} ({count:,} of {len(everywhere):,})" for name, count in changed.items())
        raise UnsafeError(
            f"evaluation of {task} at the cut {cut.isoformat()} refused: without the events at and after the cut its "
            f"features must be the same, and these are others: {found}. Make them of events before the cut."
        )


def telling_alone(values: Array, labels: Array) -> dict[int, float]:
    """Column of `values` (customers × features) -> its AUROC for labels 0 and 1, either way, where that is above
    ALMOST_CERTAIN. Unknown values (NaN) count as the lowest. Empty with fewer than LEAST_OF_KIND of a label."""
    is_positive = labels > 0
    num_positives, num_negatives = int(is_positive.sum()), int((~is_positive).sum())
    if min(num_positives, num_negatives) < LEAST_OF_KIND:
        return {}
    ranks = rankdata(np.where(np.isnan(values), -np.inf, values), axis=0)
    higher = ranks[is_positive].sum(axis=0) - num_positives * (num_positives + 1) / 2
    areas = higher / (num_positives * num_negatives)
    either_way = np.maximum(areas, 1 - areas)
    return {int(place): float(either_way[place]) for place in np.flatnonzero(either_way > ALMOST_CERTAIN)}
