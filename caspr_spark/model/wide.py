"""Wide attributes, those of very many values: what they cost follows from the values that a step meets.

Their gradients are of rows (`torch.sparse_coo`), and a guess is weighed against the most frequent values and a sample
of the others. The sum over all values that a loss needs is estimated without bias (importance sampling): the value that
came and the frequent ones are added as they are, and each drawn one stands for 1 / (draws * its probability) values. It
is drawn as often as the training data has it (`WideHead.fit`).
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
    """[M, width] -> what a guess among `num_ids` values costs. As a linear layer whose logits are never all made.

    C: the ids that guesses are compared with, the frequent and the drawn ones.
    """

    frequent: Tensor
    cumulative_V: Tensor

    def __init__(self, width: int, num_ids: int, *, bias: float | None = None) -> None:
        super().__init__()
        rows_VX = nn.Linear(width + 1, num_ids, bias=False).weight
        if bias is not None:
            rows_VX.data[:, -1] = bias
        self.rows_VX = rows_VX
        """Of each value its weights, and its bias in the last place."""
        self.register_buffer("frequent", torch.arange(1, 1 + NUM_FREQUENT), persistent=False)
        self.register_buffer("cumulative_V", torch.zeros(num_ids, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def fit(self, counts_V: Tensor) -> None:
        """`counts_V`: how often each id is in the training data. One that is not there is drawn as if it were, once."""
        weights_V = counts_V.double() + 1
        weights_V[PADDING_ID] = 0
        self.frequent.copy_(weights_V.topk(NUM_FREQUENT).indices.sort().values)
        weights_V[self.frequent] = 0
        self.cumulative_V.copy_(weights_V.cumsum(dim=0))

    def cross_entropy(self, read_MX: Tensor, ids_M: Tensor) -> Tensor:
        """Summed over the events whose value is not padding."""
        is_present_M = ids_M != PADDING_ID
        ids_M, seen_MX = ids_M[is_present_M], _with_ones(read_MX[is_present_M])
        own_M = (seen_MX * self._rows(ids_M)).sum(dim=-1)
        ids_C, log_weight_C = self._compared()
        scores_MC = seen_MX @ self._rows(ids_C).T + log_weight_C
        scores_MC = scores_MC.masked_fill(ids_C == ids_M[:, None], -math.inf)
        return (torch.logaddexp(scores_MC.logsumexp(dim=-1), own_M) - own_M).sum()

    def binary_cross_entropy(self, read_MX: Tensor, ids_MS: Tensor) -> Tensor:
        """Summed over all values, and over the events whose set of values is not empty."""
        is_present_M = (ids_MS != PADDING_ID).any(dim=-1)
        ids_MS, seen_MX = ids_MS[is_present_M], _with_ones(read_MX[is_present_M])
        event_Y, place_Y = (ids_MS != PADDING_ID).nonzero().unbind(dim=1)
        own_Y = (seen_MX[event_Y] * self._rows(ids_MS[event_Y, place_Y])).sum(dim=-1)
        ids_C, log_weight_C = self._compared()
        losses_MC = functional.softplus(seen_MX @ self._rows(ids_C).T) * log_weight_C.exp()
        is_own_MC = torch.zeros_like(losses_MC, dtype=torch.bool)
        for ids_M in ids_MS.unbind(dim=1):
            is_own_MC |= ids_C == ids_M[:, None]
        return losses_MC.masked_fill(is_own_MC, 0.0).sum() + functional.softplus(-own_Y).sum()

    def _rows(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.rows_VX, sparse=True)

    def _compared(self) -> tuple[Tensor, Tensor]:
        """(ids_C, log_weight_C): the ids, and the logarithm of how many values each stands for."""
        total = float(self.cumulative_V[-1])
        assert total > 0  # `fit` was called
        uniform = torch.rand(NUM_DRAWN, generator=chance.of_step(), dtype=torch.float64).to(self.cumulative_V.device)
        drawn = torch.searchsorted(self.cumulative_V, uniform * total, right=True).clamp(max=len(self.rows_VX) - 1)
        before = torch.where(drawn > 0, self.cumulative_V[drawn - 1], 0.0)
        log_weight = (total / (NUM_DRAWN * (self.cumulative_V[drawn] - before))).log().float()
        return torch.cat([self.frequent, drawn]), torch.cat([log_weight.new_zeros(NUM_FREQUENT), log_weight])


def tables_of(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of a network whose gradients are of rows."""
    heads = {id(module.rows_VX) for module in network.modules() if isinstance(module, WideHead)}
    embeddings = [module for module in network.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    of_rows = heads | {id(module.weight) for module in embeddings if module.sparse}
    return [parameter for parameter in network.parameters() if id(parameter) in of_rows]


def _with_ones(read_MX: Tensor) -> Tensor:
    return torch.cat([read_MX, read_MX.new_ones(len(read_MX), 1)], dim=-1)
