"""Heads that read from a customer's vector alone what the customer does next, within each of H horizons, and did last.

Their columns, for each of S sources, N amounts and V values:

    any      [S, H]   log odds of at least one activity
    count    [S, H]   log1p of the number of activities
    log      [N, H]   sign(x) log1p|x| of the sum
    linear   [N, H]   the sum, in units of its own deviation
    next     [V]      log odds of the value within the middle horizon
    new      [V]      the same, of values that the customer never had before
    recent   [V]      log odds of the value within as long before
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from caspr_spark.config import ModelSection
from caspr_spark.manifest import Layout
from caspr_spark.model.losses import Asked, head_losses
from caspr_spark.model.values import Amounts, Sources, Values

HORIZONS = (1 / 13, 2 / 13, 4 / 13, 8 / 13, 1.0)
"""In longest horizons: 7, 14, 28, 56 and 91 days where that is 91."""
MIDDLE = 2
"""Position of the horizon of `next`, `new` and `recent`."""


class Guesses(NamedTuple):
    """What is guessed of the horizons, [B, K, ...] each."""

    any_BKSH: Tensor
    count_BKSH: Tensor
    log_BKNH: Tensor
    linear_BKNH: Tensor


class ValueGuesses(NamedTuple):
    """What is guessed of the values, [B, K, V] each."""

    next_BKV: Tensor
    new_BKV: Tensor
    recent_BKV: Tensor


class FutureHeads(nn.Module):
    """embedding_BKE -> Guesses and ValueGuesses."""

    longest_days: Tensor
    deviation_NH: Tensor

    def __init__(self, section: ModelSection, layout: Layout) -> None:
        super().__init__()
        num_sources, num_horizons = Sources(layout).size, len(HORIZONS)
        num_amounts, num_values = Amounts(section, layout).size, Values(layout).size
        of_sources, of_amounts = (num_sources, num_horizons), (num_amounts, num_horizons)
        self.shapes = (of_sources, of_sources, of_amounts, of_amounts)
        """Of the parts of the guesses of horizons, without B and K."""
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.values_sizes = [num_values] * len(ValueGuesses._fields)
        self.linear = nn.Linear(section.embedding_size, sum(self.sizes) + sum(self.values_sizes))
        self.register_buffer("longest_days", torch.tensor(91.0))
        self.register_buffer("deviation_NH", torch.ones(of_amounts))

    @torch.no_grad()
    def fit(self, *, longest_days: float, deviation_NH: Tensor, start: tuple[Guesses, ValueGuesses]) -> None:
        """The data's longest horizon and units; `start`, without B and K, is what is guessed of everybody at first."""
        self.longest_days.fill_(longest_days)
        self.deviation_NH.copy_(deviation_NH)
        self.linear.bias.copy_(torch.cat([part.flatten() for parts in start for part in parts]))

    def forward(self, embedding_BKE: Tensor) -> tuple[Guesses, ValueGuesses]:
        sizes = [sum(self.sizes), *self.values_sizes]
        guesses_BKF, *of_values = torch.split(self.linear(embedding_BKE), sizes, dim=-1)
        return self._guesses(guesses_BKF), ValueGuesses(*of_values)

    def with_losses(self, embedding_BKE: Tensor, asked: Sequence[Asked]) -> tuple[Guesses, Tensor]:
        """The guesses of the horizons, and losses_3V: of each of the values' guesses as `head_losses` has it.

        `asked`: what came true of each, in the order of `ValueGuesses`; R is B * K.
        """
        guesses_RF, losses_W = head_losses(self.linear, embedding_BKE.flatten(0, 1), asked)
        guesses_BKF = torch.unflatten(guesses_RF, 0, embedding_BKE.shape[:2])
        return self._guesses(guesses_BKF), losses_W.view(len(asked), -1)

    def _guesses(self, guesses_BKF: Tensor) -> Guesses:
        parts = zip(torch.split(guesses_BKF, self.sizes, dim=-1), self.shapes, strict=True)
        return Guesses(*(torch.unflatten(part, -1, shape) for part, shape in parts))
