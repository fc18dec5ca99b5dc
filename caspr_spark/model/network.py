"""The whole network that is pretrained and kept in a checkpoint: encoder, decoder and heads."""

from collections.abc import Mapping

from torch import Tensor, nn

from caspr_spark.config import ModelSection
from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.decoder import Decoder, Heads
from caspr_spark.model.encoder import Encoder


class Network(nn.Module):
    """Encoder, decoder and one head an attribute."""

    def __init__(self, section: ModelSection, layout: Layout, scaling: Mapping[str, Scaling]) -> None:
        super().__init__()
        self.layout = layout
        self.encoder = Encoder(section, layout, scaling)
        self.decoder = Decoder(section, self.encoder.event_vectors.size)
        self.heads = Heads(section, layout)

    def forward(self, batch: Batch, is_masked_BT: Tensor, sees_events_B: Tensor) -> Tensor:
        """decoded_MD of the masked events, in the order of `is_masked_BT`'s True places."""
        decoded_BTD: Tensor = self.decoder(batch, self.encoder(batch, is_masked_BT), sees_events_B)
        return decoded_BTD[is_masked_BT]
