"""Recovers masked events from the customer's vector, the events' outputs and the events before (section 5.2)."""

import math

import torch
from torch import Tensor, nn

from caspr_spark.config import ModelSection
from caspr_spark.manifest import Layout
from caspr_spark.model.batch import Batch
from caspr_spark.model.blocks import DecoderBlock
from caspr_spark.model.encoder import Encoded
from caspr_spark.model.norm import LayerNorm
from caspr_spark.model.wide import WideHead, is_wide


class Decoder(nn.Module):
    """Causal self-attention over the shifted, masked events; cross-attention to [customer vector, events' outputs]."""

    def __init__(self, section: ModelSection, event_size: int) -> None:
        super().__init__()
        width = section.width
        self.uses_bf16 = False
        """See `network.use_bf16`."""
        self.start_D = nn.Parameter(torch.randn(width) / math.sqrt(width))
        self.project = nn.Linear(event_size, width)
        self.recall = nn.Linear(section.embedding_size, width)
        self.blocks = nn.ModuleList(
            DecoderBlock(width, section.num_heads, section.feed_forward, section.dropout)
            for _ in range(section.decoder_layers)
        )
        self.norm = LayerNorm(width)

    def forward(self, batch: Batch, encoded: Encoded, sees_events_B: Tensor) -> Tensor:
        """decoded_BTD; place i has read the event vectors before i.

        Where `sees_events_B` is False, the customer's vector is all of the memory.
        """
        num_customers, num_events = batch.event_times_BT.shape
        start_B1D = self.start_D.expand(num_customers, 1, -1)
        may_see_events_BT = batch.is_real_BT & sees_events_B[:, None]
        may_see_BU = torch.cat([may_see_events_BT.new_ones(num_customers, 1), may_see_events_BT], dim=1)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.uses_bf16):
            shifted_BTD = torch.cat([start_B1D, self.project(encoded.events_BTF[:, : num_events - 1])], dim=1)
            memory_BUD = torch.cat([self.recall(encoded.embedding_BE)[:, None, :], encoded.memory_BTD], dim=1)
            for block in self.blocks:
                shifted_BTD = block(shifted_BTD, memory_BUD, may_see_BU)
            decoded_BTD: Tensor = self.norm(shifted_BTD).float()
        return decoded_BTD


class Heads(nn.Module):
    """[M, width] -> a guess for every attribute of M events."""

    def __init__(self, width: int, layout: Layout) -> None:
        super().__init__()
        self.numerical = nn.Linear(width, len(layout.numerical)) if layout.numerical else None
        self.categorical = nn.ModuleList(
            WideHead(width, one.num_ids) if is_wide(one.num_ids) else nn.Linear(width, one.num_ids)
            for one in layout.categorical
        )
        self.sets = nn.ModuleList(_set_head(width, one.num_ids) for one in layout.sets)


def _set_head(width: int, num_ids: int) -> nn.Linear | WideHead:
    """Starts at probability 1 / num_ids: most values are absent, and a half for each would drown all else."""
    start = -math.log(num_ids)
    if is_wide(num_ids):
        return WideHead(width, num_ids, bias=start)
    head = nn.Linear(width, num_ids)
    nn.init.constant_(head.bias, start)
    return head
