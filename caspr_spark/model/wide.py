"""Wide attributes, those of very many values: what they cost follows from the values that a step meets.

Their gradients are of rows (`torch.sparse_coo`), and a guess is weighed against the most frequent values and a sample
of the others. The sum over all values that a loss needs is estimated without bias (importance sampling): the frequent
ones are added as they are, and each drawn one stands for 1 / (draws * its probability) values. Ids grow with rarity
(caspr_spark/sequences/vocabulary.py), so the sample is drawn from a log-uniform distribution.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from caspr_spark.model import chance
from schemas.vocabulary import PADDING_ID

LEAST_IDS = 20_000
"""From so many ids on an attribute is wide."""
NUM_FREQUENT, NUM_DRAWN = 2048, 2048
"""Ids that every guess is weighed against, and those of the others that a step draws."""


def is_wide(num_ids: int) -> bool:
    return num_ids >= LEAST_IDS


class WideHead(nn.Module):
    """[M, width] -> what a guess among `num_ids` values costs. As a linear layer whose logits are never all made."""

    def __init__(self, width: int, num_ids: int, *, bias: float | None = None) -> None:
        super().__init__()
        rows_VX = nn.Linear(width + 1, num_ids, bias=False).weight
        if bias is not None:
            rows_VX.data[:, -1] = bias
        self.rows_VX = rows_VX
        """Of each value its weights, and its bias in the last place."""

    def cross_entropy(self, read_MX: Tensor, ids_M: Tensor) -> Tensor:
        """Summed over the events whose value is not padding."""
        is_present_M = ids_M != PADDING_ID
        ids_M, seen_MX = ids_M[is_present_M], _with_ones(read_MX[is_present_M])
        own_M = (seen_MX * functional.embedding(ids_M, self.rows_VX, sparse=True)).sum(dim=-1)
        ids_S, log_weight_S = self._compared()
        scores_MS = self._scores(seen_MX, ids_S) + log_weight_S
        scores_MS = scores_MS.masked_fill(ids_S == ids_M[:, None], -math.inf)
        return (torch.logaddexp(scores_MS.logsumexp(dim=-1), own_M) - own_M).sum()

    def binary_cross_entropy(self, read_MX: Tensor, ids_MS: Tensor) -> Tensor:
        """Summed over all values, and over the events whose set of values is not empty."""
        is_present_M = (ids_MS != PADDING_ID).any(dim=-1)
        ids_MS, seen_MX = ids_MS[is_present_M], _with_ones(read_MX[is_present_M])
        event_Y, place_Y = (ids_MS != PADDING_ID).nonzero().unbind(dim=1)
        rows_YX = functional.embedding(ids_MS[event_Y, place_Y], self.rows_VX, sparse=True)
        ids_S, log_weight_S = self._compared()
        of_all = (functional.softplus(self._scores(seen_MX, ids_S)) * log_weight_S.exp()).sum()
        return of_all - (seen_MX[event_Y] * rows_YX).sum()

    def _scores(self, seen_MX: Tensor, ids_S: Tensor) -> Tensor:
        return seen_MX @ functional.embedding(ids_S, self.rows_VX, sparse=True).T

    def _compared(self) -> tuple[Tensor, Tensor]:
        """(ids_S, log_weight_S): the frequent values and the drawn, and the logarithm of how many each stands for."""
        ids_F = torch.arange(PADDING_ID + 1, NUM_FREQUENT)
        num_ids = len(self.rows_VX)
        span = math.log(num_ids / NUM_FREQUENT)
        uniform_R = torch.rand(NUM_DRAWN, generator=chance.of_step(), dtype=torch.float64)
        ids_R = (NUM_FREQUENT * (span * uniform_R).exp()).long().clamp(max=num_ids - 1)
        log_probability_R = ((ids_R + 1).double() / ids_R).log().log() - math.log(span)
        log_weight_R = (-math.log(NUM_DRAWN) - log_probability_R).float()
        return torch.cat([ids_F, ids_R]), torch.cat([torch.zeros(len(ids_F)), log_weight_R])


def tables_of(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network whose gradients are of rows."""
    heads = {id(module.rows_VX) for module in network.modules() if isinstance(module, WideHead)}
    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    of_rows = heads | {id(module.weight) for module in embeddings if module.sparse}
    return [parameter for parameter in network.parameters() if id(parameter) in of_rows]


def _with_ones(read_MX: Tensor) -> Tensor:
    return torch.cat([read_MX, read_MX.new_ones(len(read_MX), 1)], dim=-1)
