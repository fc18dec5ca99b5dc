"""From the events' outputs to one vector a customer and as-of time. Padding, and what is yet to come, has no weight."""

from typing import Literal

import torch
from torch import Tensor, nn


class Pooling(nn.Module):
    """memory_BTD -> pooled_BKD: learned attention, the mean of the events seen, or the newest of them."""

    def __init__(self, kind: Literal["attention", "mean", "last"], width: int) -> None:
        super().__init__()
        self.kind = kind
        self.score = nn.Linear(width, 1, bias=False) if kind == "attention" else None

    def forward(self, memory_BTD: Tensor, is_seen_BKT: Tensor) -> Tensor:
        """`is_seen_BKT`: the events that each of K vectors is made of; where there is none, the vector is zero."""
        seen_BKT = is_seen_BKT.float()
        if self.kind == "last":
            order_T = torch.arange(1, memory_BTD.shape[1] + 1, device=memory_BTD.device)
            newest_BK1 = (seen_BKT * order_T).amax(dim=-1, keepdim=True)
            weights_BKT = (seen_BKT * order_T == newest_BK1).float() * seen_BKT
        elif self.score is not None:
            scores_B1T = self.score(memory_BTD).transpose(1, 2)
            weights_BKT = scores_B1T.masked_fill(~is_seen_BKT, -torch.inf).softmax(dim=-1).nan_to_num()
        else:
            weights_BKT = seen_BKT / seen_BKT.sum(dim=-1, keepdim=True).clamp(min=1)
        return torch.bmm(weights_BKT, memory_BTD)
