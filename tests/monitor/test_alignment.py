"""One model's vectors turned onto another's, on vectors of which the truth is known."""

import numpy as np
import pytest

from caspr_spark.monitor.alignment import alignment

RANDOM = np.random.default_rng(0)
OLD = RANDOM.normal(size=(400, 6)) + 0.5
TURN = np.linalg.qr(RANDOM.normal(size=(6, 6)))[0]


def test_f83_a_rotated_copy_has_no_raw_cosine_and_is_aligned_exactly() -> None:
    new = 3 * OLD @ TURN
    raw = np.sum(OLD * new, axis=1) / np.linalg.norm(OLD, axis=1) / np.linalg.norm(new, axis=1)
    found = alignment(OLD, new)
    assert found is not None
    assert abs(raw.mean()) < 0.5
    assert (found.num_fitted, found.num_held_out) == (200, 200)
    assert found.held_out_cosine == pytest.approx(1)
    assert found.other_customers_cosine < 0.5


def test_quality_is_that_of_customers_outside_the_fit() -> None:
    unrelated = alignment(OLD, RANDOM.normal(size=OLD.shape))
    assert unrelated is not None
    assert abs(unrelated.held_out_cosine) < 0.2


def test_f84_unsound_vectors_are_left_out_of_the_fit() -> None:
    broken = (OLD @ TURN).copy()
    broken[:3] = [0.0], [np.nan], [np.inf]
    found = alignment(OLD, broken)
    assert found is not None
    assert found.num_fitted + found.num_held_out == 397
    assert found.held_out_cosine == pytest.approx(1)


@pytest.mark.parametrize(("rows", "size"), [(47, 6), (400, 5)])
def test_no_alignment_of_few_customers_or_other_lengths(rows: int, size: int) -> None:
    assert alignment(OLD[:rows], (OLD @ TURN)[:rows, :size]) is None
