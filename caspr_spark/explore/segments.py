"""Groups of customers whose vectors are alike."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

_STARTS = 10
_SILHOUETTE_CUSTOMERS = 3000


class Segments(NamedTuple):
    """A division of customers, and how far it is more than one of many possible cuts."""

    labels: NDArray[np.int64]
    """Of each customer: 1 is the largest segment."""
    silhouette: float
    """Mean over a sample: 1 where segments lie apart, about 0 where they are cuts through one cloud."""
    agreement: float
    """Adjusted Rand index with the same search from another seed: 1 is the same division, 0 is chance."""


def segmented(vectors: NDArray[np.float64], *, num_segments: int, seed: int) -> Segments | None:
    """k-means on standardised vectors (customers × numbers, finite); None for fewer different vectors than segments."""
    if num_segments < 2 or len(np.unique(vectors, axis=0)) < num_segments:
        return None
    with threadpool_limits(1):  # sums in another order would give other segments
        scaled = StandardScaler().fit_transform(vectors)
        found, again = (
            KMeans(num_segments, n_init=_STARTS, random_state=one).fit_predict(scaled) for one in (seed, seed + 1)
        )
        size = min(_SILHOUETTE_CUSTOMERS, len(scaled))
        apart = silhouette_score(scaled, found, sample_size=size, random_state=seed) if num_segments < size else 0.0
    return Segments(_largest_first(found), float(apart), float(adjusted_rand_score(found, again)))


def _largest_first(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Labels from 1 on by falling size; of equal sizes, the one of the earlier customer comes first."""
    values, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    rank = np.empty(len(values), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(1, len(values) + 1)
    return np.asarray(rank[np.searchsorted(values, labels)])
