"""Heads that read from a customer's vector alone what the next event is, and when it comes."""

import torch
from torch import Tensor, nn

from caspr_spark.manifest import Layout
from caspr_spark.model.decoder import Heads


class NextEventHeads(nn.Module):
    """embedding_ME, as of just after an event -> guesses of the next one: its attributes and the log of the gap."""

    def __init__(self, embedding_size: int, layout: Layout) -> None:
        super().__init__()
        self.attributes = Heads(embedding_size, layout)
        self.gap = nn.Linear(embedding_size, 1)

    @torch.no_grad()
    def fit(self, *, mean_gap: float) -> None:
        """`mean_gap`, the training data's mean log1p of the days, is what is guessed of everybody at first."""
        self.gap.bias.fill_(mean_gap)

    def log_gap(self, embedding_ME: Tensor) -> Tensor:
        """gap_M: log1p of the days to the next event."""
        gap_M1: Tensor = self.gap(embedding_ME)
        return gap_M1[:, 0]
