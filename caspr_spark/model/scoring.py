"""Customer vectors from the columns of the sequence files: the one path that training, scoring and tests share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from caspr_spark.errors import UnsafeError
from caspr_spark.manifest import Fit, Layout
from caspr_spark.model.batch import Batch, Columns, batch_of, by_length, chunk_events, columns_of, rows_of
from caspr_spark.model.checkpoint import Checkpoint, load_checkpoint
from caspr_spark.model.chunk_threads import ChunkThreads
from caspr_spark.model.network import Encoder, Network
from caspr_spark.registry import ModelRecord, check_fits

VectorsOf = Callable[[Batch], NDArray[np.float32]]
"""Batch -> embedding_BE."""
MOST_CUSTOMERS, MOST_EVENTS = 1024, 16384
"""That are encoded at once; customers of similar length go together."""


@dataclass(frozen=True)
class LoadedEncoder:
    """The encoder of a checkpoint, ready to score."""

    model_version: str
    manifest_requirements: ModelRecord
    vectors_of: VectorsOf

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

    def encode(self, columns: Columns, as_of_us: int | NDArray[np.int64], *, threads: int = 1) -> NDArray[np.float32]:
        """[B, E], one row a customer, in the order given. `as_of_us`: microseconds since 1970-01-01 UTC."""
        sizes = {"width": self.manifest_requirements.section.width, "embedding_size": self.embedding_size}
        return _by_chunks(self.vectors_of, columns, self.layout, as_of_us, **sizes, threads=threads)


def encode(
    encoder: Encoder, columns: Columns, layout: Layout, as_of_us: int | NDArray[np.int64], *, threads: int = 1
) -> NDArray[np.float32]:
    """[B, E] float32. Customers of similar length go together, so that little is spent on padding; `threads` such
    groups at a time, each on one thread.

    Raises UnsafeError where the columns contradict the layout, or where a vector is not finite.
    """
    was_training = encoder.training
    encoder.eval()
    sizes = {"width": encoder.width, "embedding_size": encoder.embedding_size}
    embedding_BE = _by_chunks(_of_torch(encoder), columns, layout, as_of_us, **sizes, threads=threads)
    encoder.train(was_training)
    return embedding_BE


def _of_torch(encoder: Encoder) -> VectorsOf:
    def vectors_of(batch: Batch) -> NDArray[np.float32]:
        with torch.inference_mode():
            embedding_BE: NDArray[np.float32] = encoder(batch).embedding_BE.numpy()
        return embedding_BE

    return vectors_of


def _by_chunks(
    vectors_of: VectorsOf,
    columns: Columns,
    layout: Layout,
    as_of_us: int | NDArray[np.int64],
    *,
    width: int,
    embedding_size: int,
    threads: int,
) -> NDArray[np.float32]:
    """As `encode`. `width` and `embedding_size`: of the encoder."""
    num_customers = len(num_events_B := np.asarray(columns["num_events"]))
    as_of_B = np.broadcast_to(np.asarray(as_of_us, dtype=np.int64), (num_customers,))
    columns = {name: columns[name] for name in columns_of(layout) if name in columns}
    embedding_BE = np.empty((num_customers, embedding_size), dtype=np.float32)

    def of_group(chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        return vectors_of(batch_of(rows_of(columns, layout, chosen), layout, as_of_B[chosen]))

    most_events = chunk_events(width, most_events=MOST_EVENTS)
    groups = list(by_length(num_events_B, most_customers=MOST_CUSTOMERS, most_events=most_events))
    with ChunkThreads(threads) as workers:
        for chosen, vectors_BE in zip(groups, workers.map(of_group, groups), strict=True):
            embedding_BE[chosen] = vectors_BE
    if not np.isfinite(embedding_BE).all():
        num_bad = int((~np.isfinite(embedding_BE)).any(axis=1).sum())
        raise UnsafeError(f"encoder: {num_bad} of {num_customers} vectors are not finite; the checkpoint is damaged")
    return embedding_BE


def load_encoder(folder: Path | str) -> LoadedEncoder:
    """The encoder of the checkpoint in `folder`. Raises UnsafeError where a file of it was changed."""
    checkpoint = load_checkpoint(Path(folder))
    encoder = network_of(checkpoint).encoder.eval()
    return LoadedEncoder(checkpoint.model_version, checkpoint.model, _of_torch(encoder))


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
