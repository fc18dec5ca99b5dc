"""A pretrained encoder with a head for one task: one number a customer, a probability or an amount."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caspr_spark.errors import UnsafeError
from caspr_spark.model.batch import Columns
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.features import signed_log
from caspr_spark.model.network import Encoder, Network
from caspr_spark.model.scoring import encode
from caspr_spark.registry import ModelRecord

FIRST_MISS = 0.01
"""How far the first guess is from the best constant. There the gradient would be rounding alone, of which Adam makes a
whole step, and another one with another number of workers."""
LEAST_DEVIATION = 1e-6
"""Relative to the mean: a number of the vector that varies less than this is constant but for rounding."""


class TaskHead(nn.Module):
    """embedding_BE -> guess_B, linear in the standardised [x, sign(x) log1p|x|] of the vector's numbers.

    A guess is a log odds where the labels are yes or no, otherwise in deviations of the labels. At first it is the same
    for everybody, about the best constant. A number that is the same for all training customers is not looked at.
    """

    mean_F: Tensor
    deviation_F: Tensor
    is_yes_or_no: Tensor
    label_mean: Tensor
    label_deviation: Tensor

    def __init__(self, embedding_size: int) -> None:
        super().__init__()
        size = 2 * embedding_size
        self.linear = nn.Linear(size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean_F", torch.zeros(size))
        self.register_buffer("deviation_F", torch.ones(size))
        self.register_buffer("is_yes_or_no", torch.tensor(True))
        self.register_buffer("label_mean", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("label_deviation", torch.tensor(1.0, dtype=torch.float64))

    @staticmethod
    def features(embedding_BE: Tensor) -> Tensor:
        """features_BF, not yet standardised."""
        return torch.cat([embedding_BE, signed_log(embedding_BE)], dim=-1)

    @torch.no_grad()
    def fit(self, *, mean_F: Tensor, deviation_F: Tensor) -> None:
        """The features of the training customers."""
        self.mean_F.copy_(mean_F)
        varies_F = deviation_F > LEAST_DEVIATION * (1 + mean_F.abs())
        self.deviation_F.copy_(torch.where(varies_F, deviation_F, torch.inf))

    @torch.no_grad()
    def start(self, *, is_yes_or_no: bool, label_mean: float, label_deviation: float) -> None:
        """What the labels of the training customers are; `label_deviation` is in the labels' unit."""
        self.is_yes_or_no.fill_(is_yes_or_no)
        self.label_mean.fill_(label_mean)
        self.label_deviation.fill_(label_deviation)
        best = torch.logit(self.label_mean) if is_yes_or_no else torch.zeros(1)
        self.linear.bias.copy_(best + FIRST_MISS)

    def forward(self, embedding_BE: Tensor) -> Tensor:
        scaled_BF = (self.features(embedding_BE) - self.mean_F) / self.deviation_F
        guess_B1: Tensor = self.linear(scaled_BF)
        return guess_B1[:, 0]

    def answers(self, guess_B: Tensor) -> Tensor:
        """float64 [B]: guesses as probabilities, or in the labels' unit."""
        if self.is_yes_or_no:
            return torch.sigmoid(guess_B.double())
        return self.label_mean + self.label_deviation * guess_B.double()


class TaskNetwork(nn.Module):
    """The encoder and its head. A frozen encoder is always as in use, without dropout."""

    def __init__(self, encoder: Encoder, *, is_frozen: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = TaskHead(encoder.embedding_size)
        self.is_frozen = is_frozen

    def train(self, mode: bool = True) -> "TaskNetwork":
        super().train(mode)
        self.encoder.train(mode and not self.is_frozen)
        return self


@dataclass(frozen=True)
class LoadedTask:
    """A fine-tuned model, ready to score."""

    model_version: str
    model: ModelRecord
    network: TaskNetwork

    def answers(self, columns: Columns, as_of_us: int, *, threads: int = 1) -> NDArray[np.float64]:
        """float64 [B], one a customer, in the order given: probabilities of label 1, or amounts in the labels' unit.

        `columns`: of the sequence files, with ids that the model knows (`batch.known_columns`). `as_of_us`:
        microseconds since 1970-01-01 UTC. Raises UnsafeError as `scoring.encode`.
        """
        embedding_BE = torch.from_numpy(
            encode(self.network.encoder, columns, self.model.layout, as_of_us, threads=threads)
        )
        with torch.inference_mode():
            answers: NDArray[np.float64] = self.network.head.answers(self.network.head(embedding_BE)).numpy()
        return answers


def load_task(folder: Path) -> LoadedTask:
    """The fine-tuned model of the checkpoint in `folder`. Raises UnsafeError where it was changed or is another."""
    checkpoint = load_checkpoint(folder)
    model = checkpoint.model
    network = TaskNetwork(Network(model.section, model.layout, model.scaling).encoder, is_frozen=True)
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise UnsafeError(f"{folder}: weights of another network than a fine-tuned one ({error})") from None
    return LoadedTask(checkpoint.model_version, model, network.eval())
