"""Which values come next (categories bought, pages seen): rankings of all values, and of those new to the customer.

C customers, V values. Everything before the cut may be used of every customer; what comes is known of training and
validation customers alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from sklearn.linear_model import LogisticRegression
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
from caspr_spark.evaluate.heads import Array, prepared

EASE = "ease"
"""The arm of Steck's shallow item-to-item model (2019), which sees what a customer had and nothing else."""
MOST_VALUES = 500
"""Values that are ranked, the most frequent before the cut."""
PENALTIES = (100.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 100_000.0)
EASE_PENALTIES = (100.0, 300.0, 1000.0, 3000.0)
SMALLEST = 1e-3
"""Guessed shares below this are taken for this before a logarithm."""


class Histories(NamedTuple):
    """What customers had before the cut, and what came within the horizon."""

    counts_CV: Array
    """Events before the cut that hold the value."""
    happens_CV: NDArray[np.bool_]


class Scores(NamedTuple):
    """What a value is ranked by, the highest first: among all values, and among those new to the customer."""

    all_CV: Array
    new_CV: Array


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
            arm: [_had_by_likes(one, known) for one in (values if isinstance(values, tuple) else (values,))]
            for arm, values in features.items()
        }
        eases = [_ease(known, penalty) for penalty in EASE_PENALTIES]
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
            rows += [(arm, BEST, number, metric, _mean(values)) for metric, values in found.items()]
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
            arm: _best(
                [*_ridges(of_fold(values, number), known, split), *likes[arm][number % len(likes[arm])]], known, split
            )
            for arm, values in features.items()
        }
        rule = _own_frequency(known)
        arms |= {RULE: rule, EASE: _best(eases, known, split)}
        arms[FUSED] = _fused([arms[EMBEDDING], rule, arms[EASE]], known, split)
    return split, {arm: customer_metrics(scores, known, split.test) for arm, scores in arms.items()}


def customer_metrics(scores: Scores, known: Histories, customers: NDArray[np.intp]) -> dict[str, Array]:
    """Metric -> [C]: of all values, and of new ones; NaN for a customer to whom none of them comes."""
    happens, is_new = known.happens_CV[customers], (known.counts_CV == 0)[customers]
    found = {"all": (scores.all_CV[customers], happens), "new": (scores.new_CV[customers], happens & is_new)}
    found["new"] = (np.where(is_new, found["new"][0], -np.inf), found["new"][1])
    return {f"{name}_{which}": values for which, pair in found.items() for name, values in _ranked(*pair).items()}


def _ranked(scores_CV: Array, happens_CV: NDArray[np.bool_]) -> dict[str, Array]:
    order = np.argsort(-scores_CV, axis=1, kind="stable")
    hits_CV = np.take_along_axis(happens_CV, order, axis=1).astype(float)
    num_hits_C = hits_CV.sum(axis=1)
    ranks_V = np.arange(1, hits_CV.shape[1] + 1)
    gains_V = 1 / np.log2(ranks_V[:3] + 1)
    ideal_C = np.array([0.0, *np.cumsum(gains_V)])[np.minimum(num_hits_C, len(gains_V)).astype(int)]
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = {
            "map": (hits_CV * np.cumsum(hits_CV, axis=1) / ranks_V).sum(axis=1) / num_hits_C,
            "precision_at_1": hits_CV[:, 0],
            "success_at_5": hits_CV[:, :5].max(axis=1),
            "ndcg_at_3": (hits_CV[:, :3] * gains_V[: hits_CV.shape[1]]).sum(axis=1) / ideal_C,
        }
    return {name: np.where(num_hits_C > 0, values, np.nan) for name, values in metrics.items()}


def _own_frequency(known: Histories) -> Scores:
    popularity_V = _popularity(known)
    return Scores(known.counts_CV + popularity_V, np.broadcast_to(popularity_V, known.counts_CV.shape))


def _popularity(known: Histories) -> Array:
    """[V]: share of the customers who had the value, below 1."""
    share_V: Array = (known.counts_CV > 0).mean(axis=0) * 0.999
    return share_V


def _ease(known: Histories, penalty: float) -> Scores:
    had_CV = (known.counts_CV > 0).astype(float)
    inverse_VV = np.linalg.inv(had_CV.T @ had_CV + penalty * np.eye(had_CV.shape[1]))
    weights_VV = inverse_VV / -np.diag(inverse_VV)
    np.fill_diagonal(weights_VV, 0)
    scores_CV = had_CV @ weights_VV
    return Scores(scores_CV, scores_CV)


def _ridges(features: Array, known: Histories, split: Split) -> list[Scores]:
    """One for each penalty, of validation and test customers; NaN for the others. Of new values, how far they are
    beyond the rate at which they come to others."""
    prepare, asked = prepared(), np.concatenate([split.validation, split.test])
    seen = prepare.fit_transform(features[split.training])
    happens, is_new = known.happens_CV[split.training].astype(float), (known.counts_CV == 0)[split.training]
    rate_V = (happens * is_new).sum(axis=0) / is_new.sum(axis=0).clip(min=1)  # of those to whom the value is new
    targets = np.hstack([happens, is_new * (happens - rate_V)])
    found = []
    for guess in _regressed(seen, targets, prepare.transform(features[asked])):
        everybody = np.full((len(features), targets.shape[1]), np.nan)
        everybody[asked] = guess
        all_CV, beyond_CV = np.hsplit(everybody, 2)
        found.append(Scores(all_CV, rate_V + beyond_CV))
    return found


def _had_by_likes(features: Array, known: Histories) -> list[Scores]:
    """One for each penalty: what a customer would have had before the cut, by the features, regressed on everybody."""
    seen = prepared().fit_transform(features)
    had_CV = (known.counts_CV > 0).astype(float)
    return [Scores(guess_CV, guess_CV) for guess_CV in _regressed(seen, had_CV, seen)]


def _regressed(seen: Array, targets: Array, asked: Array) -> Iterator[Array]:
    """What a ridge regression of `targets` on `seen` answers for `asked`, for each of PENALTIES: all from one
    decomposition, for hundreds of targets make each fit dear."""
    mean_F, mean_T = seen.mean(axis=0), targets.mean(axis=0)
    centred = seen - mean_F
    values_F, vectors_FF = np.linalg.eigh(centred.T @ centred)
    turned, turned_FT = (asked - mean_F) @ vectors_FF, vectors_FF.T @ (centred.T @ (targets - mean_T))
    for penalty in PENALTIES:
        yield mean_T + turned @ (turned_FT / (values_F + penalty)[:, None])


def _best(candidates: Sequence[Scores], known: Histories, split: Split) -> Scores:
    """Of each ranking the candidate with the best mean average precision on validation customers."""
    found = [customer_metrics(one, known, split.validation) for one in candidates]
    best = {
        which: int(np.nanargmax([*(_mean(one[f"map_{which}"]) for one in found), -np.inf])) for which in ("all", "new")
    }
    return Scores(candidates[best["all"]].all_CV, candidates[best["new"]].new_CV)


def _mean(values: Array) -> float:
    """Of those that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _fused(arms: Sequence[Scores], known: Histories, split: Split) -> Scores:
    """Pairs of a customer and a value are judged by the arms' scores together; learnt on validation customers."""
    popularity_CV = np.broadcast_to(_popularity(known), known.counts_CV.shape)
    own_CV = known.counts_CV
    is_new_CV = known.counts_CV == 0

    def learnt(columns: Sequence[Array], asked_CV: NDArray[np.bool_]) -> Array:
        pairs_CVF = np.stack([np.log(np.clip(column, SMALLEST, None)) for column in columns], axis=-1)
        pairs_CVF = np.concatenate([pairs_CVF, np.stack(columns, axis=-1)], axis=-1)
        where = asked_CV[split.validation]
        happens = known.happens_CV[split.validation][where]
        if happens.all() or not happens.any():
            return columns[0]
        fit = LogisticRegression(max_iter=300).fit(pairs_CVF[split.validation][where], happens)
        return np.asarray(pairs_CVF @ fit.coef_[0])

    all_CV = learnt([arms[0].all_CV, arms[2].all_CV, own_CV, popularity_CV], np.ones_like(is_new_CV))
    new_CV = learnt([arms[0].new_CV, arms[2].new_CV, popularity_CV], is_new_CV)
    return Scores(all_CV, new_CV)
