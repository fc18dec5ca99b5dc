"""Which values come next (categories bought, pages seen): rankings of all values, and of those new to the customer.

C customers, V values. Everything before the cut may be used of every customer; what comes is known of training and
validation customers alone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from caspr_spark.evaluate.bootstrap import TwoArms
from caspr_spark.evaluate.experiment import (
    BEST,
    BOTH,
    CUSTOMERS,
    EMBEDDING,
    FUSED,
    RFM,
    RULE,
    SCORE_COLUMNS,
    Outcome,
    Split,
    Vectors,
    bootstrap_rows,
    in_parallel,
    of_fold,
    random_splits,
)
from caspr_spark.evaluate.heads import Array
from caspr_spark.evaluate.rankings import (
    EASE_PENALTIES,
    Histories,
    Scores,
    best_ranking,
    customer_metrics,
    ease,
    fused_rankings,
    had_by_likes,
    mean_of_known,
    own_frequency,
    ridges,
)

EASE = "ease"
"""The arm of Steck's shallow item-to-item model (2019), which sees what a customer had and nothing else."""
MOST_VALUES = 500
"""Values that are ranked, the most frequent before the cut."""


def value_counts(
    events: DataFrame,
    *,
    source: str,
    attribute: str,
    cut: datetime,
    active_days: int,
    horizon_days: int,
    ignored: Sequence[str] = (),
    only_first: bool = False,
) -> DataFrame:
    """`events` -> customer_id, value, num_before, num_after: events of `source` that hold a value of `attribute`.

    Of the customers with an event of `source` in the `active_days` before the cut; num_before is of all events before
    it, num_after of those in [cut, cut + horizon_days), with `only_first` of the first of them that holds any value.
    Values that are `ignored` count as not there. A customer without any value has one row, its value null.
    """
    time = F.col("event_time")
    known = events.where((F.col("source") == source) & (time < F.lit(cut + timedelta(days=horizon_days))))
    is_active = (time < F.lit(cut)) & (time >= F.lit(cut - timedelta(days=active_days)))
    population = known.where(is_active).select("customer_id").distinct()
    is_set = events.schema[attribute].dataType.typeName() == "array"
    values = F.col(attribute) if is_set else F.array_compact(F.array(attribute))
    if ignored:
        values = F.array_except(values, F.array(*map(F.lit, ignored)))
    is_before, is_after = time < F.lit(cut), time >= F.lit(cut)
    held = known.join(population, on="customer_id", how="left_semi").withColumn("values", values)
    if only_first:
        has_values = is_after & (F.size("values") > 0)
        in_order = Window.partitionBy("customer_id", has_values).orderBy("event_time", "event_id")
        is_after = has_values & (F.row_number().over(in_order) == 1)
    return (
        held.select("customer_id", is_before.alias("is_before"), is_after.alias("is_after"), "values")
        .select("customer_id", "is_before", "is_after", F.explode_outer("values").alias("value"))
        .groupBy("customer_id", "value")
        .agg(F.count_if("is_before").alias("num_before"), F.count_if("is_after").alias("num_after"))
    )


def histories(counted: pd.DataFrame, customers: Sequence[str]) -> Histories:
    """`value_counts` -> matrices of these customers, over the most frequent values before the cut."""
    known = counted[counted["value"].notna()]
    frequent = known.groupby("value")["num_before"].sum().sort_values(ascending=False, kind="stable")
    values = frequent[frequent > 0].index[:MOST_VALUES]

    def matrix(column: str) -> Array:
        table = known.pivot_table(index="customer_id", columns="value", values=column, aggfunc="sum", fill_value=0)
        return table.reindex(index=pd.Index(customers), columns=values, fill_value=0).to_numpy(dtype=float)

    return Histories(matrix("num_before"), matrix("num_after") > 0)


def ranking_scores(
    features: Mapping[str, Vectors],
    known: Histories,
    *,
    num_splits: int,
    test_share: float,
    validation_share: float,
    seed: int,
    folds: NDArray[np.int64] | None = None,
) -> Outcome:
    """Scores of all arms on random splits, as `paired_scores`; every arm has the head `best` alone.

    rule: how often the customer had the value, equal ones by how many customers had it. rfm, embedding, both: ridge
    regressions of what happens, and of what customers had, which needs no label: a value that others like this customer
    had comes first. Which, and the penalty, is chosen on validation. ease: with the penalty chosen on validation.
    fused: a logistic regression of what happens, on embedding, own frequency, popularity and ease, of validation
    customers. `folds`: of `random_splits`.
    """
    features = {**features, BOTH: np.hstack([of_fold(features[RFM], 0), of_fold(features[EMBEDDING], 0)])}
    has_new = (known.happens_CV & (known.counts_CV == 0)).any(axis=1)
    with threadpool_limits(1):
        likes = {
            arm: [had_by_likes(one, known) for one in (values if isinstance(values, tuple) else (values,))]
            for arm, values in features.items()
        }
        eases = [ease(known, penalty) for penalty in EASE_PENALTIES]
    splits = random_splits(
        has_new.astype(float),
        num_splits=num_splits,
        test_share=test_share,
        validation_share=validation_share,
        seed=seed,
        folds=folds,
    )
    judged = in_parallel(partial(_judged, features, known, likes, eases), splits)
    rows: list[tuple[str, str, int, str, float]] = []
    tested: dict[tuple[str, str], list[TwoArms]] = {}
    for number, (split, of_split) in enumerate(judged):
        rows += [
            (CUSTOMERS, "", number, "num_train", len(has_new) - len(split.test)),
            (CUSTOMERS, "", number, "num_test", len(split.test)),
            (CUSTOMERS, "", number, "positive_share", float(has_new[split.test].mean())),
        ]
        for arm, found in of_split.items():
            names = list(found)
            rows += [(arm, BEST, number, metric, mean_of_known(values)) for metric, values in found.items()]
            if arm != RFM:
                ours, theirs = (np.column_stack(list(one.values())) for one in (found, of_split[RFM]))
                tested.setdefault((arm, BEST), []).append(TwoArms(split.test, ours, theirs))

    def weighted(_truth: Array, values_CM: Array, _everybody: Array, weights_RC: Array) -> Mapping[str, Array]:
        is_known_CM = ~np.isnan(values_CM)
        with np.errstate(invalid="ignore"):
            means_RM = (weights_RC @ np.nan_to_num(values_CM)) / (weights_RC @ is_known_CM)
        return dict(zip(names, means_RM.T, strict=True))

    rows += bootstrap_rows(tested, has_new.astype(float), weighted, seed=seed)
    return Outcome(pd.DataFrame(rows, columns=SCORE_COLUMNS), {})


def _judged(
    features: Mapping[str, Vectors],
    known: Histories,
    likes: Mapping[str, Sequence[Sequence[Scores]]],
    eases: Sequence[Scores],
    number: int,
    split: Split,
) -> tuple[Split, dict[str, dict[str, Array]]]:
    """The split, and arm -> `customer_metrics` of its test customers."""
    with threadpool_limits(1):
        arms = {
            arm: best_ranking(
                [*ridges(of_fold(values, number), known, split), *likes[arm][number % len(likes[arm])]], known, split
            )
            for arm, values in features.items()
        }
        rule = own_frequency(known)
        arms |= {RULE: rule, EASE: best_ranking(eases, known, split)}
        arms[FUSED] = fused_rankings([arms[EMBEDDING], rule, arms[EASE]], known, split)
    return split, {arm: customer_metrics(scores, known, split.test) for arm, scores in arms.items()}
