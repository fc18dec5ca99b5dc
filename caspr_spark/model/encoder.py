"""Events and profile -> one vector a customer (section 5.2). Scoring needs no more; the decoder is for training."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from caspr_spark.config import ModelSection
from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.blocks import EncoderBlock
from caspr_spark.model.features import EventVectors, ProfileVectors
from caspr_spark.model.norm import LayerNorm
from caspr_spark.model.pooling import Pooling


class Encoded(NamedTuple):
    """What the encoder made of a batch."""

    events_BTF: Tensor
    """The event vectors it read, masked events as such."""
    memory_BTD: Tensor
    """One output an event."""
    embedding_BE: Tensor
    """The customer vectors."""


class PaperEncoder(nn.Module):
    """Event vectors -> linear -> blocks -> concat with the profile -> dense layers -> pooling -> customer vector.

    Every event sees every other, so that a pass is good for one as_of.
    """

    def __init__(self, section: ModelSection, layout: Layout, scaling: Mapping[str, Scaling]) -> None:
        super().__init__()
        width = section.width
        self.width, self.embedding_size = section.width, section.embedding_size
        self.uses_bf16 = False
        """See `network.use_bf16`."""
        self.event_vectors = EventVectors(layout, scaling)
        self.profile_vectors = ProfileVectors(layout, scaling)
        self.project = nn.Linear(self.event_vectors.size, width)
        self.blocks = nn.ModuleList(
            EncoderBlock(width, section.num_heads, section.feed_forward, section.dropout)
            for _ in range(section.encoder_layers)
        )
        self.norm = LayerNorm(width)
        self.dense = nn.Sequential(
            nn.Linear(width + self.profile_vectors.size, width), nn.GELU(), nn.Linear(width, width), LayerNorm(width)
        )
        assert section.pooling != "decayed"  # the configuration refuses it
        self.pooling = Pooling(section.pooling, width)
        self.embed = nn.Linear(width, section.embedding_size)

    def forward(self, batch: Batch, is_masked_BT: Tensor | None = None) -> Encoded:
        """The whole encoding; training masks events, scoring does not. That is the only difference between them."""
        events_BTF = self.event_vectors(batch, is_masked_BT)
        is_real_BT = batch.is_real_BT
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.uses_bf16):
            hidden_BTD = self.project(events_BTF)
            for block in self.blocks:
                hidden_BTD = block(hidden_BTD, is_real_BT[:, None, None, :])
            profile_BTF = self.profile_vectors(batch)[:, None, :].expand(-1, hidden_BTD.shape[1], -1)
            memory_BTD = self.dense(torch.cat([self.norm(hidden_BTD), profile_BTF], dim=-1)).float()
        embedding_BE = self.embed(self.pooling(memory_BTD, is_real_BT[:, None, :])[:, 0])
        return Encoded(events_BTF, memory_BTD, embedding_BE)
