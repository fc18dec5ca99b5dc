"""From the events' outputs to one vector a customer. Padding has no weight."""

from typing import Literal

import torch
from torch import Tensor, nn


class Pooling(nn.Module):
    """memory_BTD -> pooled_BD: learned attention, the mean of the real events, or the newest event."""

    def __init__(self, kind: Literal["attention", "mean", "last"], width: int) -> None:
        super().__init__()
        self.kind = kind
        self.score = nn.Linear(width, 1, bias=False) if kind == "attention" else None

    def forward(self, memory_BTD: Tensor, num_events_B: Tensor) -> Tensor:
        num_events = memory_BTD.shape[1]
        is_real_BT = torch.arange(num_events) < num_events_B[:, None]
        if self.kind == "last":
            weights_BT = (torch.arange(num_events) == num_events_B[:, None] - 1).float()
        elif self.score is not None:
            scores_BT = self.score(memory_BTD).squeeze(-1).masked_fill(~is_real_BT, -torch.inf)
            weights_BT = scores_BT.softmax(dim=-1)
        else:
            weights_BT = is_real_BT.float() / num_events_B[:, None]
        return torch.einsum("bt,btd->bd", weights_BT, memory_BTD)
