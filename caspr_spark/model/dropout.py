"""Dropout that draws 16 bits a number, and on a CPU goes over the numbers once (`kernels.c`)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from caspr_spark.model import chance, kernels

NUM_DRAWN, SMALLEST = 2**16, -(2**15)


class Dropout(nn.Module):
    """As nn.Dropout, and that on a GPU; on a CPU in a fifth of its time.

    A number is wiped with a chance of `share` to the nearest 1/65536. What is kept is divided by exactly its chance.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.num_wiped = round(share * NUM_DRAWN)

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.num_wiped == 0:
            return values
        if values.device.type != "cpu":
            return functional.dropout(values, self.num_wiped / NUM_DRAWN)
        num_values = values.numel()
        drawn = torch.empty(-(-num_values // 4), dtype=torch.int64).random_(-(2**63), None, generator=chance.of_chunk())
        bits = drawn.view(torch.int16)[:num_values].view_as(values)
        kept: Tensor = _Dropped.apply(values, bits, self.num_wiped)  # type: ignore[no-untyped-call]
        return kept


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bits: Tensor, num_wiped: int) -> Tensor:
        ctx.save_for_backward(bits)
        ctx.num_wiped = num_wiped
        return _dropped(values, bits, num_wiped)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        (bits,) = ctx.saved_tensors
        return _dropped(gradients[0], bits, ctx.num_wiped), None, None


def _dropped(values: Tensor, bits: Tensor, num_wiped: int) -> Tensor:
    """`values` where the bits, a number from -32768, are not among the `num_wiped` smallest."""
    least, scale = num_wiped + SMALLEST, NUM_DRAWN / max(1, NUM_DRAWN - num_wiped)
    if kernels.can_take(values):
        values = values.contiguous()
        kept = torch.empty_like(values)
        kernels.call("dropped", values.numel(), values, bits, least, scale, kept)
        return kept
    return values * (bits > least - 1).float().mul_(scale)  # `least` itself may be beyond 16 bits
