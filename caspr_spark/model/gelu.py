"""x times the share of a normal variable below x, on a CPU in a third of the time that torch takes (`kernels.c`)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from caspr_spark.model import kernels


def gelu(values: Tensor) -> Tensor:
    """As torch's, to a millionth."""
    if not kernels.can_take(values):
        return functional.gelu(values)
    bent: Tensor = _Gelu.apply(values)  # type: ignore[no-untyped-call]
    return bent


class GELU(nn.Module):
    """As nn.GELU."""

    def forward(self, values: Tensor) -> Tensor:
        return gelu(values)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.contiguous()
        bent = torch.empty_like(values)
        kernels.call("gelu", values.numel(), values, bent)
        ctx.save_for_backward(values)
        return bent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (values,) = ctx.saved_tensors
        of_values = torch.empty_like(values)
        kernels.call("gelu_backward", values.numel(), values, gradients[0].contiguous(), of_values)
        return of_values
