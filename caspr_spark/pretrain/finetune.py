"""Fine-tuning: a head for one task, on a pretrained encoder that is frozen or trained with it."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from caspr_spark.manifest import SequenceManifest, Split
from caspr_spark.model.batch import Batch
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.scoring import network_of
from caspr_spark.model.task import TaskNetwork
from caspr_spark.pretrain.goal import Goal, Group
from caspr_spark.pretrain.job import Job
from caspr_spark.pretrain.labels import is_yes_or_no
from caspr_spark.pretrain.ranks import Ranks

SPLITS: tuple[Split, ...] = ("training", "validation")


class TaskLoss:
    """An objective (see `Objective`) of one term: binary cross-entropy, or the squared error of standardised labels.

    Both are divided by what the best constant guess costs the training customers. Nothing is drawn.
    """

    size = 1
    compares_customers = False

    def __init__(self, keys: NDArray[np.int64], labels: NDArray[np.float64], *, training: NDArray[np.bool_]) -> None:
        """`keys` (customer_key) and `labels` of all customers, and who of them are trained on."""
        order = np.argsort(keys)
        self.keys = torch.from_numpy(keys[order])
        self.labels = torch.from_numpy(labels[order])
        self.vectors: Tensor | None = None
        """Of a frozen encoder, customer by customer: they are made once, not once an epoch. NaN until then."""
        self.is_yes_or_no = is_yes_or_no(labels)
        self.mean, self.deviation = float(labels[training].mean()), float(labels[training].std())
        share = self.mean
        self.constant = -share * np.log(share) - (1 - share) * np.log(1 - share) if self.is_yes_or_no else 1.0

    def fit(self, network: TaskNetwork, chunks: Callable[[], Iterator[Batch]], ranks: Ranks) -> None:
        """Give the head the labels' units, and the vectors' as the encoder makes them of the training customers."""
        network.head.start(is_yes_or_no=self.is_yes_or_no, label_mean=self.mean, label_deviation=self.deviation)
        network.eval()
        if network.is_frozen:
            self.vectors = torch.full((len(self.keys), network.encoder.embedding_size), torch.nan)
        size = len(network.head.mean_F)
        sums_F, squares_F, count = (torch.zeros(number, dtype=torch.float64) for number in (size, size, 1))
        with torch.no_grad():
            for batch in chunks():
                features_BF = network.head.features(self._vectors(network, batch)).double()
                sums_F += features_BF.sum(dim=0)
                squares_F += features_BF.square().sum(dim=0)
                count += len(features_BF)
        for tensor in (sums_F, squares_F, count):
            ranks.sum_(tensor)
        mean_F = sums_F / count
        network.head.fit(mean_F=mean_F, deviation_F=(squares_F / count - mean_F.square()).clamp(min=0).sqrt())

    def draw(self, batch: Batch, *, epoch: int) -> None:
        return None

    def counts(self, batch: Batch, drawn: None) -> Tensor:
        """float64 [1]: customers."""
        return torch.tensor([float(len(batch.customer_key_B))], dtype=torch.float64, device=batch.device)

    def sums(self, network: TaskNetwork, batch: Batch, drawn: None) -> Tensor:
        """float32 [1]: the customers' summed loss."""
        label_B = self.labels[self._places(batch)].to(batch.device)
        guess_B: Tensor = network.head(self._vectors(network, batch))
        if self.is_yes_or_no:
            return functional.binary_cross_entropy_with_logits(guess_B, label_B.float(), reduction="sum")[None]
        scaled_B = ((label_B - self.mean) / self.deviation).float()
        return functional.mse_loss(guess_B, scaled_B, reduction="sum")[None]

    def weights(self, counts_A: Tensor) -> Tensor:
        return torch.where(counts_A > 0, 1.0 / (counts_A.clamp(min=1) * self.constant), 0.0)

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        return {"label": float(sums_A / counts_A / self.constant)} if counts_A.any() else {}

    def loss(self, sums_A: Tensor, counts_A: Tensor) -> float:
        return self.by_name(sums_A, counts_A)["label"]

    def _vectors(self, network: TaskNetwork, batch: Batch) -> Tensor:
        """embedding_BE."""
        if self.vectors is None:
            embedding_BE: Tensor = network.encoder(batch).embedding_BE
            return embedding_BE
        place_B = self._places(batch)
        if self.vectors[place_B].isnan().any():
            with torch.no_grad():
                self.vectors[place_B] = network.encoder(batch).embedding_BE.cpu()
        return self.vectors[place_B].to(batch.device)

    def _places(self, batch: Batch) -> Tensor:
        """place_B, where the customers stand in `keys`; on the CPU, as all that is kept of them."""
        return torch.searchsorted(self.keys, batch.customer_key_B.cpu())


def finetuning(job: Job, manifest: SequenceManifest) -> Goal:
    """A pretrained encoder and a new head, for the labels of the job.

    Raises UnsafeError where the pretrained checkpoint was changed.
    """
    assert job.task is not None
    customers = pd.read_parquet(job.labels_file)
    part, keys = customers["part"].to_numpy(), customers["customer_key"].to_numpy(dtype=np.int64)
    pretrained = load_checkpoint(job.task.pretrained)
    network = TaskNetwork(network_of(pretrained).encoder, is_frozen=job.task.train == "head")
    groups = [Group(list(network.head.parameters()), 1.0)]
    if job.task.train == "encoder":
        groups.append(Group(list(network.encoder.parameters()), job.task.encoder_rate_share))
    return Goal(
        network,
        TaskLoss(keys, customers["label"].to_numpy(dtype=np.float64), training=part == "training"),
        tuple(groups),
        pretrained.model.model_copy(update={"as_of": manifest.as_of, "fingerprint": job.fingerprint, "seed": job.seed}),
        {split: keys[part == split] for split in SPLITS},
    )
