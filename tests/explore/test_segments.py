"""Segments of planted groups of vectors."""

import numpy as np
import pytest

from caspr_spark.explore.segments import segmented

RANDOM = np.random.default_rng(3)
GROUPS = np.repeat([0, 1, 2], [50, 30, 10])
VECTORS = 8 * np.eye(3)[GROUPS] + RANDOM.normal(size=(90, 3))


def test_planted_groups_are_found_the_largest_first() -> None:
    found = segmented(VECTORS, num_segments=3, seed=1)
    assert found is not None
    assert found.labels.tolist() == (GROUPS + 1).tolist()
    assert found.silhouette > 0.5
    assert found.agreement == 1


def test_segments_are_deterministic_and_do_not_depend_on_scale() -> None:
    cloud = RANDOM.normal(size=(200, 5))
    first, again = segmented(cloud, num_segments=4, seed=1), segmented(cloud, num_segments=4, seed=1)
    scaled = segmented(cloud * np.array([1, 10, 0.1, 1000, 1]) + 5, num_segments=4, seed=1)
    assert first is not None
    assert again is not None
    assert scaled is not None
    assert first.labels.tolist() == again.labels.tolist() == scaled.labels.tolist()
    assert first[1:] == again[1:]
    assert np.all(np.diff(np.bincount(first.labels)[1:]) <= 0)
    assert first.silhouette < 0.3


@pytest.mark.parametrize("vectors", [VECTORS[:7], np.ones((30, 3)), np.tile(VECTORS[:5], (9, 1))])
def test_fewer_different_vectors_than_segments_are_not_divided(vectors: np.ndarray) -> None:
    assert segmented(vectors, num_segments=8, seed=1) is None


def test_as_many_vectors_as_segments_are_one_each() -> None:
    found = segmented(VECTORS[:8], num_segments=8, seed=1)
    assert found is not None
    assert sorted(found.labels.tolist()) == [*range(1, 9)]
