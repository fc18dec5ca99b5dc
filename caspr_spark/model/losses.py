"""The cross entropies of very many values, which torch goes over a dozen times, forward and backward.

On a CPU `kernels.c` goes over them once for the losses and once for the gradient, while a cache holds them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from caspr_spark.model import kernels
from schemas.vocabulary import PADDING_ID

CACHED_LOGITS = 2**18
"""1 MiB."""


def value_losses(logits_RV: Tensor, is_so_RV: Tensor, counts_RV: Tensor) -> Tensor:
    """losses_V: binary cross entropy, of values that any number of may be so, summed over the rows where each counts.

    `is_so_RV` and `counts_RV` are of booleans.
    """
    if _can_be_compiled(logits_RV):
        losses_V: Tensor = _ValueLosses.apply(logits_RV, is_so_RV, counts_RV)  # type: ignore[no-untyped-call]
        return losses_V
    losses_RV = functional.binary_cross_entropy_with_logits(logits_RV, is_so_RV.float(), reduction="none")
    return (losses_RV * counts_RV).sum(dim=0)


def class_loss(head: nn.Linear, read_MX: Tensor, ids_M: Tensor) -> Tensor:
    """Cross entropy of what `head` makes of `read_MX` for values of which one is so, summed; none where no value is."""
    if _can_be_compiled(read_MX):
        loss: Tensor = _ClassLoss.apply(read_MX, head.weight, head.bias, ids_M, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return loss
    return functional.cross_entropy(head(read_MX), ids_M, ignore_index=PADDING_ID, reduction="sum")


def _can_be_compiled(given: Tensor) -> bool:
    return kernels.can_take(given) and not torch.is_autocast_enabled("cpu")


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
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None


class _ClassLoss(torch.autograd.Function):
    """The gradient is made at once, some events at a time: the logits of all of them are never there."""

    @staticmethod
    def forward(ctx: Any, read: Tensor, weight: Tensor, bias: Tensor, ids: Tensor, is_learned: bool) -> Tensor:
        assert ids.dtype == torch.int64
        ids, losses = ids.contiguous(), read.new_empty(len(read))
        if is_learned:
            of_read, of_weight, of_bias = torch.empty_like(read), torch.zeros_like(weight), torch.zeros_like(bias)
            ctx.save_for_backward(of_read, of_weight, of_bias)
        rows = max(1, CACHED_LOGITS // len(weight))
        for start in range(0, len(read), rows):
            some = slice(start, start + rows)
            logits = torch.addmm(bias, read[some], weight.t())
            kernels.call("class_losses", *logits.shape, logits, ids[some], losses[some])
            if is_learned:
                torch.mm(logits, weight, out=of_read[some])
                of_weight.addmm_(logits.t(), read[some])
                of_bias.add_(logits.sum(dim=0))
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        of_read, of_weight, of_bias = ctx.saved_tensors
        return of_read * gradients[0], of_weight * gradients[0], of_bias * gradients[0], None, None
