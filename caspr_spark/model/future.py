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
from typing import NamedTuple

import torch
from torch import Tensor, nn

from caspr_spark.config import ModelSection
from caspr_spark.manifest import Layout
from caspr_spark.model.values import Amounts, Sources, Values

HORIZONS = (1 / 13, 2 / 13, 4 / 13, 8 / 13, 1.0)
"""In longest horizons: 7, 14, 28, 56 and 91 days where that is 91."""
MIDDLE = 2
"""Position of the horizon of `next`, `new` and `recent`."""


class Guesses(NamedTuple):
    """What is guessed, [B, K, ...] each."""

    any_BKSH: Tensor
    count_BKSH: Tensor
    log_BKNH: Tensor
    linear_BKNH: Tensor
    next_BKV: Tensor
    new_BKV: Tensor
    recent_BKV: Tensor


class FutureHeads(nn.Module):
    """embedding_BKE -> Guesses."""

    longest_days: Tensor
    deviation_NH: Tensor

    def __init__(self, section: ModelSection, layout: Layout) -> None:
        super().__init__()
        num_sources, num_horizons = Sources(layout).size, len(HORIZONS)
        num_amounts, num_values = Amounts(section, layout).size, Values(layout).size
        of_sources, of_amounts = (num_sources, num_horizons), (num_amounts, num_horizons)
        self.shapes = [of_sources, of_sources, of_amounts, of_amounts, *[(num_values,)] * 3]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.linear = nn.Linear(section.embedding_size, sum(self.sizes))
        self.register_buffer("longest_days", torch.tensor(91.0))
        self.register_buffer("deviation_NH", torch.ones(of_amounts))

    @torch.no_grad()
    def fit(self, *, longest_days: float, deviation_NH: Tensor, start: Guesses) -> None:
        """The data's longest horizon and units; `start`, without B and K, is what is guessed of everybody at first."""
        self.longest_days.fill_(longest_days)
        self.deviation_NH.copy_(deviation_NH)
        self.linear.bias.copy_(torch.cat([part.flatten() for part in start]))

    def forward(self, embedding_BKE: Tensor) -> Guesses:
        guessed = self.linear(embedding_BKE).split(self.sizes, dim=-1)
        return Guesses(*(part.unflatten(-1, shape) for part, shape in zip(guessed, self.shapes, strict=True)))
