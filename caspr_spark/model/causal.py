"""An encoder that looks back only: one pass gives a customer's vector at any number of as-of times."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from caspr_spark.config import ModelSection
from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.blocks import EncoderBlock
from caspr_spark.model.decay import DecayedPooling, ages
from caspr_spark.model.dropout import Dropout
from caspr_spark.model.encoder import Encoded
from caspr_spark.model.features import EventVectors, ProfileVectors
from caspr_spark.model.forgetting import Forgetting
from caspr_spark.model.norm import LayerNorm
from caspr_spark.model.packing import Packing
from caspr_spark.model.pooling import Pooling

FORGETTING = (-3.0, 1.0)
"""The slopes of the heads' time bias are softplus of numbers from the one to the other: from hardly any to steep."""


class CausalEncoder(nn.Module):
    """Event vectors -> dense -> mixer -> pooling at as-of times -> customer vectors.

    The mixer is a transformer whose heads forget with time, a GRU, or none: then a vector is made of sums over events
    alone. What it adds to the events starts at nothing and grows by a learned gate.
    """

    def __init__(self, section: ModelSection, layout: Layout, scaling: Mapping[str, Scaling]) -> None:
        super().__init__()
        width = section.width
        self.width, self.embedding_size = section.width, section.embedding_size
        self.uses_bf16 = False
        """See `network.use_bf16`."""
        self.event_vectors = EventVectors(layout, scaling, knows_as_of=False)
        self.project = nn.Sequential(
            nn.Linear(self.event_vectors.size, width),
            nn.GELU(),
            Dropout(section.event_dropout),
            LayerNorm(width),
        )
        self.mixer = _mixer(section)
        self.norm = LayerNorm(width)
        self.gate_D = nn.Parameter(torch.zeros(width))
        self.decayed = DecayedPooling(section, layout, scaling) if section.pooling == "decayed" else None
        if section.pooling != "decayed":
            self.profile_vectors = ProfileVectors(layout, scaling)
            self.pooling = Pooling(section.pooling, width)
            self.embed = nn.Linear(width + self.profile_vectors.size, section.embedding_size)

    def forward(self, batch: Batch, is_masked_BT: Tensor | None = None) -> Encoded:
        """The vectors as of the batch's own as-of times; masked events are not seen."""
        is_visible_BT = batch.visible(is_masked_BT)
        events_BTF = self.event_vectors(batch, is_masked_BT)
        outputs_BTD = self._outputs(events_BTF, batch)
        embedding_BKE = self._pooled(outputs_BTD, batch, batch.as_of_B[:, None], is_visible_BT)
        return Encoded(events_BTF, outputs_BTD, embedding_BKE[:, 0])

    def at(self, batch: Batch, as_of_BK: Tensor) -> Tensor:
        """embedding_BKE as of each of K times (microseconds), made of the events strictly before it."""
        return self._pooled(self._outputs(self.event_vectors(batch), batch), batch, as_of_BK, batch.is_real_BT)

    def _outputs(self, events_BTF: Tensor, batch: Batch) -> Tensor:
        packing = Packing(batch)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.uses_bf16):
            events_LD: Tensor = self.project(packing.pack(events_BTF))
            if self.mixer is not None:
                mixed_LD: Tensor = self.norm(self.mixer(events_LD, packing))
                events_LD = events_LD + self.gate_D * mixed_LD
            return packing.unpack(events_LD.float())

    def _pooled(self, outputs_BTD: Tensor, batch: Batch, as_of_BK: Tensor, is_visible_BT: Tensor) -> Tensor:
        if self.decayed is not None:
            embedding_BKE: Tensor = self.decayed(outputs_BTD, batch, as_of_BK, is_visible_BT)
            return embedding_BKE
        pooled_BKD = self.pooling(outputs_BTD, ages(batch, as_of_BK, is_visible_BT)[1])
        profile_BKF = self.profile_vectors(batch)[:, None].expand(-1, as_of_BK.shape[1], -1)
        embedding_BKE = self.embed(torch.cat([pooled_BKD, profile_BKF], dim=-1))
        return embedding_BKE


class ForgettingTransformer(nn.Module):
    """Each event beside the one before it, then blocks in which it attends to itself and to events of strictly earlier
    times, the less the longer ago. Within one visit all are as near: attention alone hardly tells what came first.
    """

    slopes_H: Tensor

    def __init__(self, section: ModelSection) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            EncoderBlock(section.width, section.num_heads, section.feed_forward, section.dropout)
            for _ in range(section.encoder_layers)
        )
        self.pair = Pair(section.width)
        slopes_H = functional.softplus(torch.linspace(*FORGETTING, section.num_heads))
        self.register_buffer("slopes_H", slopes_H, persistent=False)

    def forward(self, events_LD: Tensor, packing: Packing) -> Tensor:
        events_LD = events_LD + self.pair(events_LD, packing)
        forgetting = Forgetting(packing, self.slopes_H)
        for block in self.blocks:
            events_LD = block(events_LD, forgetting)
        return events_LD


class Pair(nn.Module):
    """What an event and the last one of a strictly earlier time say together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.both = nn.Linear(2 * width, width)
        self.output = nn.Linear(width, width)

    def forward(self, events_LD: Tensor, packing: Packing) -> Tensor:
        batch = packing.batch
        times_BT = batch.event_times_BT.masked_fill(~batch.is_real_BT, torch.iinfo(torch.int64).max)
        before_BT = torch.searchsorted(times_BT, times_BT) - 1
        before_L = packing.pack(before_BT.clamp(min=0) + packing.starts[:, None])
        own_DD, previous_DD = self.both.weight.chunk(2, dim=1)
        own_LD, previous_LD = functional.linear(events_LD, torch.cat([own_DD, previous_DD])).chunk(2, dim=1)
        is_there_L1 = packing.pack(before_BT >= 0)[:, None]
        both_LD = own_LD + previous_LD.index_select(0, before_L) * is_there_L1 + self.both.bias
        paired_LD: Tensor = self.output(functional.gelu(both_LD))
        return paired_LD


class Recurrent(nn.Module):
    """A GRU, oldest event first; padding comes last and reaches nobody."""

    def __init__(self, section: ModelSection) -> None:
        super().__init__()
        self.gru = nn.GRU(section.width, section.width, section.encoder_layers, batch_first=True)

    def forward(self, events_LD: Tensor, packing: Packing) -> Tensor:
        with torch.autocast(events_LD.device.type, enabled=False):  # it would be float16 on a GPU
            outputs_BTD: Tensor = self.gru(packing.unpack(events_LD.float()))[0]
        return packing.pack(outputs_BTD)


def _mixer(section: ModelSection) -> nn.Module | None:
    if section.encoder == "transformer":
        return ForgettingTransformer(section)
    return Recurrent(section) if section.encoder == "gru" else None
