"""What an objective is, and the chance that all of them draw from.

Every random choice is a hash of (seed, epoch, customer, position), so that it does not depend on the batch, on the
order of the customers or on how many workers share them.
"""

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caspr_spark.model.batch import Batch
from caspr_spark.model.splitmix import signed, splitmix64

MASKING, MEMORY, AS_OF_TIMES, SLICES, NEXT_EVENTS, FOLDS = 1, 2, 3, 4, 5, 6
"""What a hash is drawn for."""
SMALLEST_CONSTANT_LOSS = 1e-3
"""An attribute that a constant guesses better than this has nothing to teach, and would be divided by almost 0."""


class Objective(Protocol):
    """A loss that is a sum over A terms, each (summed loss / count / loss of the best constant guess).

    1.0 is therefore as good as a constant. Sums and counts are kept apart, so that workers can add theirs up.
    """

    size: int
    """A."""

    def draw(self, batch: Batch, *, epoch: int) -> Any:
        """The random choices of this epoch for these customers."""

    def counts(self, batch: Batch, drawn: Any) -> Tensor:
        """float64 [A]: what there is to guess."""

    def sums(self, network: Any, batch: Batch, drawn: Any) -> Tensor:
        """float32 [A]: the summed loss of all guesses of the network that the objective is for."""

    def weights(self, counts_A: Tensor) -> Tensor:
        """[A] such that (weights * sums).sum() is the loss of these counts; `counts_A` is that of all workers."""

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        """What the user is told: part of the objective -> loss / constant loss."""


def hash_of(purpose: int, seed: int, epoch: int, customer_key_B: Tensor) -> Tensor:
    """int64 [B], as good as random, the same wherever and whenever it is computed."""
    return splitmix64(customer_key_B ^ _of_all(purpose, seed, epoch))


@lru_cache
def _of_all(purpose: int, seed: int, epoch: int) -> int:
    """What a hash starts with for all customers."""
    mixed = splitmix64(torch.tensor(purpose))
    for part in (signed(seed), epoch):
        mixed = splitmix64(mixed ^ part)
    return int(mixed)


def folds_of(customer_keys: NDArray[np.int64], *, num_folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each customer, 0 to num_folds - 1, as `LeftOut` counts them."""
    shares_B = uniform(hash_of(FOLDS, seed, 0, torch.from_numpy(np.asarray(customer_keys, dtype=np.int64))))
    folds: NDArray[np.int64] = (shares_B * num_folds).long().numpy()
    return folds


def uniform(hashes: Tensor) -> Tensor:
    """int64 hashes as float64 from 0 to below 1."""
    return ((hashes >> 11) & (2**53 - 1)).double() / 2**53
