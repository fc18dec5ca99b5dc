"""Customer vectors from the columns of the sequence files: the one path that training, scoring and tests share."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from caspr_spark.errors import UnsafeError
from caspr_spark.manifest import Fit, Layout
from caspr_spark.model.batch import Columns, batch_of, by_length, chunk_events, columns_of
from caspr_spark.model.checkpoint import Checkpoint, load_checkpoint
from caspr_spark.model.network import Encoder, Network
from caspr_spark.registry import ModelRecord, check_fits

MOST_CUSTOMERS = 256
"""That are encoded at once; customers of similar length go together."""


@dataclass(frozen=True)
class LoadedEncoder:
    """The encoder of a checkpoint, ready to score."""

    model_version: str
    manifest_requirements: ModelRecord
    encoder: Encoder

    @property
    def embedding_size(self) -> int:
        return self.manifest_requirements.section.embedding_size

    @property
    def layout(self) -> Layout:
        """Of the sequences that it was trained on."""
        return self.manifest_requirements.layout

    @property
    def columns(self) -> list[str]:
        """Names of the columns that `encode` needs."""
        return columns_of(self.layout)

    def check_fits(self, data: Fit) -> None:
        """Raise UnsafeError, saying what differs, unless the model can read sequences of this fit."""
        check_fits(self.manifest_requirements, data)

    def encode(self, columns: Columns, as_of_us: int | NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, E], one row a customer, in the order given. `as_of_us`: microseconds since 1970-01-01 UTC."""
        return encode(self.encoder, columns, self.layout, as_of_us)


def encode(
    encoder: Encoder, columns: Columns, layout: Layout, as_of_us: int | NDArray[np.int64]
) -> NDArray[np.float32]:
    """[B, E] float32. Customers of similar length go together, so that little is spent on padding.

    Raises UnsafeError where the columns contradict the layout, or where a vector is not finite.
    """
    num_customers = len(num_events_B := np.asarray(columns["num_events"]))
    as_of_B = np.broadcast_to(np.asarray(as_of_us, dtype=np.int64), (num_customers,))
    by_customer = {
        name: np.asarray(columns[name]).reshape(num_customers, -1 if num_customers else 1)
        for name in columns_of(layout)
        if name in columns
    }
    embedding_BE = np.empty((num_customers, encoder.embedding_size), dtype=np.float32)
    was_training, most_events = encoder.training, chunk_events(encoder.width)
    encoder.eval()
    with torch.inference_mode():
        for chosen in by_length(num_events_B, most_customers=MOST_CUSTOMERS, most_events=most_events):
            rows = {name: values[chosen] for name, values in by_customer.items()}
            batch = batch_of(rows, layout, as_of_B[chosen])
            embedding_BE[chosen] = encoder(batch).embedding_BE.numpy()
    encoder.train(was_training)
    if not np.isfinite(embedding_BE).all():
        num_bad = int((~np.isfinite(embedding_BE)).any(axis=1).sum())
        raise UnsafeError(f"encoder: {num_bad} of {num_customers} vectors are not finite; the checkpoint is damaged")
    return embedding_BE


def load_encoder(folder: Path | str) -> LoadedEncoder:
    """The encoder of the checkpoint in `folder`. Raises UnsafeError where a file of it was changed."""
    checkpoint = load_checkpoint(Path(folder))
    return LoadedEncoder(checkpoint.model_version, checkpoint.model, network_of(checkpoint).encoder.eval())


def network_of(checkpoint: Checkpoint) -> Network:
    """The network with the weights of the checkpoint. Raises UnsafeError where they have other names or shapes."""
    network = Network(checkpoint.model.section, checkpoint.model.layout, checkpoint.model.scaling)
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise UnsafeError(
            f"checkpoint {checkpoint.model_version}: weights of another network, perhaps of an older version of this "
            f"package; pretrain again ({error})"
        ) from None
    return network
