"""Where a training stands: all weights as one tensor, and everything that is needed to go on after a crash."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from caspr_spark.errors import UnsafeError
from caspr_spark.pretrain.job import EpochRecord

STATE_FILE = "state.safetensors"


class FlatWeights:
    """All W trained weights as one tensor, their gradients as another: one sum over the ranks, one Adam step a group.

    The network's parameters become views of them, and so does `parts`: the weights of each group, for the optimizer.
    `message` is the gradient with `num_extra` numbers behind it that travel with it.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], num_extra: int) -> None:
        parameters = [parameter for group in groups for parameter in group]
        values_W = torch.cat([parameter.detach().flatten() for parameter in parameters])
        self.message = torch.zeros(len(values_W) + num_extra)
        self.gradient_W = self.message[: len(values_W)]
        self.extra = self.message[len(values_W) :]
        self.weights_W = values_W
        sizes = [sum(parameter.numel() for parameter in group) for group in groups]
        self.parts = [nn.Parameter(part) for part in torch.split(values_W, sizes)]
        for part, gradient in zip(self.parts, torch.split(self.gradient_W, sizes), strict=True):
            part.grad = gradient
        start = 0
        for parameter in parameters:
            stop = start + parameter.numel()
            parameter.data = values_W[start:stop].view_as(parameter)
            parameter.grad = self.gradient_W[start:stop].view_as(parameter)
            start = stop


@dataclass
class TrainingState:
    """The one object that a resumed training starts from. Batches, masks and dropout follow from seed and epoch."""

    weights_W: Tensor
    first_moment_W: Tensor
    second_moment_W: Tensor
    best_W: Tensor
    num_steps: int = 0
    curve: list[EpochRecord] = field(default_factory=list)

    @property
    def num_epochs(self) -> int:
        return len(self.curve)

    @property
    def best(self) -> EpochRecord | None:
        """The newest epoch that was the best so far, so the best."""
        return next((record for record in reversed(self.curve) if record.is_best), None)


def save_state(folder: Path, state: TrainingState) -> None:
    """Replace the state in `folder`, in one rename."""
    part = folder / f".{STATE_FILE}.part"
    tensors = {
        "weights_W": state.weights_W,
        "first_moment_W": state.first_moment_W,
        "second_moment_W": state.second_moment_W,
        "best_W": state.best_W,
    }
    about = {"num_steps": state.num_steps, "curve": [record.model_dump(mode="json") for record in state.curve]}
    save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, part, {"state": json.dumps(about)})
    os.replace(part, folder / STATE_FILE)


def load_state(folder: Path) -> TrainingState | None:
    """The state of an interrupted training in `folder`, or None. Raises UnsafeError where it cannot be read."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
        curve = [EpochRecord.model_validate(record) for record in about["curve"]]
        return TrainingState(num_steps=about["num_steps"], curve=curve, **tensors)
    except Exception as error:  # whatever a damaged file makes safetensors or json raise
        raise UnsafeError(f"{path}: state of an interrupted training, unreadable ({error}); remove it") from None
