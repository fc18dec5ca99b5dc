"""The binary cross entropy of very many values, most of which nobody has.

The same as torch's binary_cross_entropy_with_logits, of which forward and backward go over all of them a dozen times:
on a CPU one pass of our own (`kernels.c`) gives the sums and the gradient, in a fifth of the time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.model import kernels


def value_losses(logits_RV: Tensor, is_so_RV: Tensor, counts_RV: Tensor) -> Tensor:
    """losses_V, summed over those rows in which a value counts. `is_so_RV` and `counts_RV` are of booleans."""
    is_float = logits_RV.dtype == torch.float32 and logits_RV.device.type == "cpu"
    if is_float and kernels.are_there():
        losses_V: Tensor = _ValueLosses.apply(logits_RV, is_so_RV, counts_RV)  # type: ignore[no-untyped-call]
        return losses_V
    losses_RV = functional.binary_cross_entropy_with_logits(logits_RV, is_so_RV.float(), reduction="none")
    return (losses_RV * counts_RV).sum(dim=0)


class _ValueLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, is_so: Tensor, counts: Tensor) -> Tensor:
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        losses, gradient = logits.new_zeros(logits.shape[1]), None
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
            ctx.save_for_backward(gradient)
        sizes = (*logits.shape, logits.stride(0))
        kernels.call("value_losses", *sizes, logits, is_so.contiguous(), counts.contiguous(), losses, gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None
