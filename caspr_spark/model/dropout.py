"""Dropout that draws 16 bits a number, and on a CPU makes them as it goes over the numbers, once (`kernels.c`)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from caspr_spark.model import chance, kernels
from caspr_spark.model.splitmix import GOLDEN, signed, splitmix64

NUM_DRAWN, SMALLEST = 2**16, -(2**15)
NUMBERS_A_DRAW = 4
"""Whose bits are those of one output of the generator."""


class Draw(NamedTuple):
    """Which of the numbers are wiped: those whose 16 bits, as `kernels.c` makes them of `key`, are below `least`."""

    key: int
    least: int
    scale: float
    """Of what is kept."""


class Dropout(nn.Module):
    """As nn.Dropout, and that on a GPU; on a CPU several times as fast, and nothing is kept for the gradient.

    A number is wiped with a chance of `share` to the nearest 1/65536. What is kept is divided by exactly its chance.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.num_wiped = round(share * NUM_DRAWN)

    def forward(self, values: Tensor, onto: Tensor | None = None) -> Tensor:
        """`values` after dropout, and `onto`, of the same shape, added to them."""
        if self.wipes:
            if values.device.type == "cpu":
                added: Tensor = _Dropped.apply(values, onto, self.draw())  # type: ignore[no-untyped-call]
                return added
            values = functional.dropout(values, self.num_wiped / NUM_DRAWN)
        return values if onto is None else onto + values

    @property
    def wipes(self) -> bool:
        return self.training and self.num_wiped > 0

    def draw(self) -> Draw:
        """The next one of a CPU; one by which nothing is wiped takes nothing from the generator."""
        if not self.wipes:
            return Draw(0, SMALLEST, 1.0)
        key = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=chance.of_chunk()))
        return Draw(key, self.num_wiped + SMALLEST, NUM_DRAWN / max(1, NUM_DRAWN - self.num_wiped))


class _Dropped(torch.autograd.Function):
    """The bits follow from the key: the gradient makes them anew."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, onto: Tensor | None, draw: Draw) -> Tensor:
        ctx.draw, ctx.has_more = draw, onto is not None
        return _dropped(values, onto, draw)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor | None, None]:
        return _dropped(gradients[0], None, ctx.draw), gradients[0] if ctx.has_more else None, None


def _dropped(values: Tensor, onto: Tensor | None, draw: Draw) -> Tensor:
    """`values` without those that are wiped, and `onto`."""
    if kernels.can_take(values) and (onto is None or kernels.can_take(onto)):
        values, onto = values.contiguous(), None if onto is None else onto.contiguous()
        added = torch.empty_like(values)
        kernels.call("dropped", values.numel(), values, onto, *draw, added)
        return added
    places = torch.arange(-(-values.numel() // NUMBERS_A_DRAW))
    bits = splitmix64(places * signed(GOLDEN) + draw.key).view(torch.int16)[: values.numel()].view_as(values)
    added = values * (bits > draw.least - 1).float().mul_(draw.scale)  # `least` itself may be beyond 16 bits
    return added if onto is None else added + onto
