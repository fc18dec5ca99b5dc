"""What a training is for: all that differs between pretraining and fine-tuning. Reader, loop and launchers do not."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from caspr_spark.manifest import SequenceManifest, Split
from caspr_spark.model.batch import Batch
from caspr_spark.model.network import Network
from caspr_spark.pretrain.combined import Combined
from caspr_spark.pretrain.job import Job, LeftOut
from caspr_spark.pretrain.objectives import Objective, folds_of
from caspr_spark.pretrain.ranks import Ranks
from caspr_spark.pretrain.reader import customer_keys
from caspr_spark.registry import ModelRecord


class WholeObjective(Objective, Protocol):
    """What the trainer asks of an objective beside its terms."""

    compares_customers: bool
    """Whether a customer's loss depends on who goes through the network with it."""

    def fit(self, network: Any, chunks: Callable[[], Iterator[Batch]], ranks: Ranks) -> None:
        """Take from the training data what constants and units the objective and the network need."""

    def loss(self, sums_A: Tensor, counts_A: Tensor) -> float:
        """What early stopping looks at; 1.0 is the best constant guess."""


class Group(NamedTuple):
    """Weights that are trained, and their learning rate as a share of the job's."""

    weights: Sequence[nn.Parameter]
    rate_share: float


class Goal(NamedTuple):
    """A network, what it is trained for, and on whom."""

    network: nn.Module
    objective: WholeObjective
    groups: tuple[Group, ...]
    record: ModelRecord
    """What the weights mean; the sequences are read as a model of its layout reads them."""
    keys: dict[Split, NDArray[np.int64]] | None = None
    """The customers (customer_key) of each part; None: those of the files of that split."""

    def keys_of(self, split: Split) -> NDArray[np.int64] | None:
        return None if self.keys is None else self.keys[split]


def pretraining(job: Job, manifest: SequenceManifest) -> Goal:
    """A network from nothing, for the objectives of the section `model`."""
    network = Network(job.model, manifest.layout, manifest.scaling)
    record = ModelRecord(
        section=job.model,
        layout=manifest.layout,
        scaling=manifest.scaling,
        vocabulary_version=manifest.vocabulary_version,
        as_of=manifest.as_of,
        fingerprint=job.fingerprint,
        seed=job.seed,
    )
    keys = None if job.left_out is None else _keys_but_for(job.left_out, job, manifest)
    return Goal(network, Combined(job, manifest), (Group(list(network.parameters()), 1.0),), record, keys)


def _keys_but_for(left_out: LeftOut, job: Job, manifest: SequenceManifest) -> dict[Split, NDArray[np.int64]]:
    keys = {}
    for split in get_args(Split):
        of_split = customer_keys(job.manifest_folder, manifest.of_split(split))
        folds = folds_of(of_split, num_folds=left_out.num_folds, seed=job.seed)
        keys[split] = of_split[folds != left_out.fold]
    return keys
