"""Rankings of values, of all and of those new to the customer: what they can be made of, and how good they are.

C customers, V values, as in `next_values`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from caspr_spark.evaluate.experiment import Split
from caspr_spark.evaluate.heads import Array, prepared

EASE_PENALTIES = (100.0, 300.0, 1000.0, 3000.0)
PENALTIES = (100.0, 1000.0, 3000.0, 10_000.0, 30_000.0, 100_000.0)
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


def own_frequency(known: Histories) -> Scores:
    popularity_V = _popularity(known)
    return Scores(known.counts_CV + popularity_V, np.broadcast_to(popularity_V, known.counts_CV.shape))


def _popularity(known: Histories) -> Array:
    """[V]: share of the customers who had the value, below 1."""
    share_V: Array = (known.counts_CV > 0).mean(axis=0) * 0.999
    return share_V


def ease(known: Histories, penalty: float) -> Scores:
    had_CV = (known.counts_CV > 0).astype(float)
    inverse_VV = np.linalg.inv(had_CV.T @ had_CV + penalty * np.eye(had_CV.shape[1]))
    weights_VV = inverse_VV / -np.diag(inverse_VV)
    np.fill_diagonal(weights_VV, 0)
    scores_CV = had_CV @ weights_VV
    return Scores(scores_CV, scores_CV)


def ridges(features: Array, known: Histories, split: Split) -> list[Scores]:
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


def had_by_likes(features: Array, known: Histories) -> list[Scores]:
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


def best_ranking(candidates: Sequence[Scores], known: Histories, split: Split) -> Scores:
    """Of each ranking the candidate with the best mean average precision on validation customers."""
    found = [customer_metrics(one, known, split.validation) for one in candidates]

    def best(which: str) -> Scores:
        return candidates[int(np.nanargmax([*(mean_of_known(one[f"map_{which}"]) for one in found), -np.inf]))]

    return Scores(best("all").all_CV, best("new").new_CV)


def fused_rankings(arms: Sequence[Scores], known: Histories, split: Split) -> Scores:
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


def mean_of_known(values: Array) -> float:
    """Of those that are known; NaN where none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
