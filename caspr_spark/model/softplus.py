"""log(1 + exp(x)), on a CPU in a sixth of the time that torch takes for it (`kernels.c`)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from caspr_spark.model import kernels


def softplus(values: Tensor) -> Tensor:
    """As torch's, of which numbers above 20 are as they are."""
    if not kernels.can_take(values):
        return functional.softplus(values)
    positive: Tensor = _Softplus.apply(values)  # type: ignore[no-untyped-call]
    return positive


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.contiguous()
        positive = torch.empty_like(values)
        slopes = torch.empty_like(values) if ctx.needs_input_grad[0] else None
        kernels.call("softplus", values.numel(), values, positive, slopes)
        ctx.save_for_backward(slopes)
        return positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (slopes,) = ctx.saved_tensors
        of_values: Tensor = gradients[0] * slopes
        return of_values
