"""The whole network that is pretrained and kept in a checkpoint: the encoder, and what its objectives need."""

from collections.abc import Mapping

from torch import Tensor, nn

from caspr_spark.config import ModelSection
from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.causal import CausalEncoder
from caspr_spark.model.decoder import Decoder, Heads
from caspr_spark.model.encoder import PaperEncoder
from caspr_spark.model.future import FutureHeads
from caspr_spark.model.next_event import NextEventHeads

Encoder = PaperEncoder | CausalEncoder


def use_bf16(network: nn.Module) -> None:
    """Let the layers of encoder and decoder compute in bfloat16, where a GPU is several times as fast.

    Weights, the vectors' sums over events, heads and losses stay float32: counts and amounts would be rounded to three
    digits.
    """
    for module in network.modules():
        if isinstance(module, PaperEncoder | CausalEncoder | Decoder):
            module.uses_bf16 = True


class Network(nn.Module):
    """The encoder; a decoder and one head an attribute for masked recovery; heads for the future and the next event."""

    def __init__(self, section: ModelSection, layout: Layout, scaling: Mapping[str, Scaling]) -> None:
        super().__init__()
        self.layout = layout
        is_paper = section.encoder == "caspr"
        self.encoder: Encoder = (PaperEncoder if is_paper else CausalEncoder)(section, layout, scaling)
        objectives = section.objectives
        self.decoder = Decoder(section, self.encoder.event_vectors.size) if objectives.masked else None
        self.heads = Heads(section.width, layout) if objectives.masked else None
        self.future = FutureHeads(section, layout) if objectives.future else None
        self.contrast = nn.Linear(section.embedding_size, section.width) if objectives.contrastive else None
        self.next_event = NextEventHeads(section.embedding_size, layout) if objectives.next_event else None

    def forward(self, batch: Batch, is_masked_BT: Tensor, sees_events_B: Tensor) -> Tensor:
        """decoded_MD of the masked events, in the order of `is_masked_BT`'s True places."""
        assert self.decoder is not None
        decoded_BTD: Tensor = self.decoder(batch, self.encoder(batch, is_masked_BT), sees_events_B)
        return decoded_BTD[is_masked_BT]
