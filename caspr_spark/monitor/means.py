"""The means that charts follow, each in standard deviations of single customers (Cohen's d; for shares Cohen's h).

Letters: J baseline runs, C charts of one measure, B bins.
"""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from caspr_spark.monitor.sketch import Counts, Floats, Sketch

SHIFT, TAIL = "shift", "tail"
SHARES = ("value", "known", "present")
CHARTED = {"known": "unknown", "present": "missing"}
"""Measures of two bins -> the bin that has a chart."""
_TAIL_SHARE = 0.05
_MIN_STRATUM = 50
"""Customers a stratum must have in the baseline; those of a rarer one have nothing to be compared with."""
_MIN_SHARE = 0.01
"""A value that is rarer both before and now has no chart."""
_MIN_EXPECTED = 10
"""A value that is expected fewer times in a run is not missed."""
_NORMAL = NormalDist()


class Means(NamedTuple):
    """One measure's means in a run and in the baseline runs that have it, and how many independent customers (or
    values) each is a mean of. `expected` and `found` are for people: shares, means or normal scores."""

    measure: str
    names: list[str]
    expected_C: Floats
    found_C: Floats
    run_C: Floats
    size_C: Floats
    runs: list[Sketch]
    baseline_JC: Floats
    size_JC: Floats


class StratumScores(NamedTuple):
    """By bin of the distance: normal score, and 1 where it is in the upper tail; and the baseline's share there."""

    score_B: Floats
    is_tail_B: Floats
    tail_share: float


def all_means(run: Sketch, runs: Sequence[Sketch], *, min_customers: int) -> list[Means]:
    """Every measure of which the run has at least `min_customers`, against the baseline runs that have as many."""
    return [
        *_distance_means(run, runs, min_customers),
        *_coordinate_means(run, runs, min_customers),
        *_number_means(run, runs, min_customers),
        *_share_means(run, runs, min_customers),
    ]


def stratum_scores(runs: Sequence[Sketch]) -> dict[str, StratumScores]:
    """Of each stratum with enough customers in the runs."""
    pooled: dict[str, Floats] = {}
    for sketch in runs:
        for stratum, counts_B in sketch.distances.items():
            pooled[stratum] = pooled.get(stratum, np.zeros(len(counts_B))) + counts_B
    return {stratum: _scores(counts_B) for stratum, counts_B in pooled.items() if counts_B.sum() >= _MIN_STRATUM}


def mean_score(
    distances: Mapping[str, Floats], scores: Mapping[str, StratumScores]
) -> tuple[float, float, float, float]:
    """Customers in strata that have scores, their mean score, their share in the tail, and the share expected there."""
    known = [(counts_B, scores[stratum]) for stratum, counts_B in distances.items() if stratum in scores]
    customers = sum(float(counts_B.sum()) for counts_B, _ in known)
    sums = (
        sum(float(counts_B @ score.score_B) for counts_B, score in known),
        sum(float(counts_B @ score.is_tail_B) for counts_B, score in known),
        sum(float(counts_B.sum()) * score.tail_share for counts_B, score in known),
    )
    mean, tail, expected = (total / max(customers, 1) for total in sums)
    return customers, mean, tail, expected


def _scores(counts_B: Floats) -> StratumScores:
    from_here_on_B = np.cumsum(counts_B[::-1])[::-1] / counts_B.sum()
    is_tail_B = from_here_on_B <= _TAIL_SHARE
    return StratumScores(
        _normal_scores(counts_B), is_tail_B.astype(float), float(counts_B @ is_tail_B / counts_B.sum())
    )


def _distance_means(run: Sketch, runs: Sequence[Sketch], min_customers: int) -> list[Means]:
    """Normal score, and share in the upper tail, of the distances, each within its stratum."""
    scores = stratum_scores(runs)
    customers, mean, tail, expected = mean_score(run.distances, scores)
    found = [(sketch, mean_score(sketch.distances, scores)) for sketch in runs]
    enough = [(sketch, numbers) for sketch, numbers in found if numbers[0] >= min_customers]
    if customers < min_customers or not enough:
        return []
    size_J, mean_J, tail_J, expected_J = np.array([numbers for _, numbers in enough]).T
    return [
        Means(
            "distance",
            [SHIFT, TAIL],
            expected_C=np.array([0.0, expected]),
            found_C=np.array([mean, tail]),
            run_C=np.array([mean, _arcsine(tail) - _arcsine(expected)]),
            size_C=np.full(2, customers),
            runs=[sketch for sketch, _ in enough],
            baseline_JC=np.stack([mean_J, _arcsine(tail_J) - _arcsine(expected_J)], axis=1),
            size_JC=np.stack([size_J, size_J], axis=1),
        )
    ]


def _coordinate_means(run: Sketch, runs: Sequence[Sketch], min_customers: int) -> list[Means]:
    """Each coordinate of the vectors: where the customers are, however far they moved at a time."""
    alike = [other for other in runs if other.num_customers >= min_customers and len(other.means) == len(run.means)]
    if run.num_customers < min_customers or not len(run.means) or not alike:
        return []
    size_J = np.array([float(other.num_customers) for other in alike])
    mean_JC = np.stack([other.means for other in alike])
    mean_C = np.average(mean_JC, axis=0, weights=size_J)
    variance_C = np.average(np.stack([other.variances for other in alike]), axis=0, weights=size_J)
    deviation_C = np.sqrt(np.maximum(variance_C, 1e-12))
    return [
        Means(
            "coordinate",
            [str(number) for number in range(len(mean_C))],
            expected_C=mean_C,
            found_C=run.means,
            run_C=(run.means - mean_C) / deviation_C,
            size_C=np.full(len(mean_C), float(run.num_customers)),
            runs=alike,
            baseline_JC=(mean_JC - mean_C) / deviation_C,
            size_JC=np.repeat(size_J[:, None], len(mean_C), axis=1),
        )
    ]


def _number_means(run: Sketch, runs: Sequence[Sketch], min_customers: int) -> list[Means]:
    """Normal score of each numerical attribute."""
    found = []
    for attribute, counts in sorted(run.numbers.items()):
        enough = _enough([(sketch, sketch.numbers.get(attribute)) for sketch in runs], min_customers)
        if counts.customers < min_customers or not enough:
            continue
        bins = sorted({name for one in (counts, *(other for _, other in enough)) for name in one.bins}, key=int)
        counts_JB = np.stack([_aligned(other.bins, bins) for _, other in enough])
        score_B = _normal_scores(counts_JB.sum(axis=0))
        mean_C = np.array([_aligned(counts.bins, bins) @ score_B / counts.total])
        found.append(
            Means(
                "number",
                [attribute],
                expected_C=np.zeros(1),
                found_C=mean_C,
                run_C=mean_C,
                size_C=np.array([counts.customers]),
                runs=[sketch for sketch, _ in enough],
                baseline_JC=(counts_JB @ score_B / counts_JB.sum(axis=1))[:, None],
                size_JC=np.array([[other.customers] for _, other in enough]),
            )
        )
    return found


def _share_means(run: Sketch, runs: Sequence[Sketch], min_customers: int) -> list[Means]:
    """Share of each value, of the unknown and of the missing of each attribute."""
    found = []
    for (measure, attribute), counts in sorted(run.shares.items()):
        enough = _enough([(sketch, sketch.shares.get((measure, attribute))) for sketch in runs], min_customers)
        if counts.customers < min_customers or not enough:
            continue
        others = [other for _, other in enough]
        bins = [CHARTED[measure]] if measure in CHARTED else sorted({b for one in (counts, *others) for b in one.bins})
        counts_JB = np.stack([_aligned(other.bins, bins) for other in others])
        total_J, customers_J = np.array([(other.total, other.customers) for other in others]).T[:, :, None]
        expected_B, found_B = counts_JB.sum(axis=0) / total_J.sum(), _aligned(counts.bins, bins) / counts.total
        gain_B = _certainty_gained([counts, *others], bins)
        size_B = np.minimum(gain_B * counts.customers, counts.total)
        is_charted_B = np.maximum(expected_B, found_B) >= _MIN_SHARE
        is_charted_B &= (found_B >= expected_B) | (expected_B * size_B >= _MIN_EXPECTED)
        is_charted_B |= measure in CHARTED
        if is_charted_B.any():
            found.append(
                Means(
                    measure,
                    [f"{attribute}={bins[place]}" for place in np.flatnonzero(is_charted_B)],
                    expected_C=expected_B[is_charted_B],
                    found_C=found_B[is_charted_B],
                    run_C=_arcsine(found_B)[is_charted_B],
                    size_C=size_B[is_charted_B],
                    runs=[sketch for sketch, _ in enough],
                    baseline_JC=_arcsine(counts_JB / total_J)[:, is_charted_B],
                    size_JC=np.minimum(gain_B * customers_J, total_J)[:, is_charted_B],
                )
            )
    return found


def _enough(counts: list[tuple[Sketch, Counts | None]], min_customers: int) -> list[tuple[Sketch, Counts]]:
    return [(sketch, one) for sketch, one in counts if one is not None and one.customers >= min_customers]


def _certainty_gained(counts: Sequence[Counts], bins: Sequence[str]) -> Floats:
    """By how much a share is more certain than if each customer kept to one value (the inverse of a design effect).

    The judged run is among the `counts`: of what the baseline has never seen, it alone knows whether it is spread over
    customers.
    """
    share_B = np.sum([_aligned(one.bins, bins) for one in counts], axis=0) / sum(one.total for one in counts)
    squares_B = np.sum([_aligned(one.squares, bins) for one in counts], axis=0)
    kept_to_one_B = share_B * (1 - share_B) * sum(one.total**2 / one.customers for one in counts)
    least_B = np.maximum(squares_B, 1e-6 * kept_to_one_B)
    return np.asarray(np.divide(kept_to_one_B, least_B, out=np.ones_like(least_B), where=least_B > 0))


def _aligned(numbers: Mapping[str, float], bins: Sequence[str]) -> Floats:
    return np.array([numbers.get(name, 0.0) for name in bins])


def _arcsine(share: Floats | float) -> Floats:
    """The scale on which Cohen's h is a difference, and a share of n customers has the variance 1 / n."""
    return np.asarray(2 * np.arcsin(np.sqrt(np.clip(share, 0, 1))))


def _normal_scores(counts_B: Floats) -> Floats:
    """Mean of a standard normal variable within each bin, were it cut into shares like `counts_B` (van der Waerden)."""
    # One customer spread over all bins keeps the scores of empty ones finite and in order.
    share_B = (counts_B + 1 / len(counts_B)) / (counts_B.sum() + 1)
    inner = np.clip(np.cumsum(share_B)[:-1], 1e-12, 1 - 1e-12)
    density = np.array([0.0, *(_NORMAL.pdf(_NORMAL.inv_cdf(float(edge))) for edge in inner), 0.0])
    scores_B = -np.diff(density) / share_B
    return np.asarray(scores_B - scores_B @ counts_B / counts_B.sum())
