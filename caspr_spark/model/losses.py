"""The cross entropies of very many values, which torch goes over a dozen times, forward and backward.

On a CPU some values at a time are computed while a cache holds them, from the layer that guesses them to the gradient
of its output, and `kernels.c` goes over them once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from caspr_spark.model import kernels
from schemas.vocabulary import PADDING_ID

CACHED_LOGITS = 2**17
"""Half a MiB."""
LEAST_VALUES = 128
"""That are computed at once: a product with fewer takes longer for each."""


class Asked(NamedTuple):
    """What is guessed of V values, any number of which may be so, in R rows."""

    is_so_RV: Tensor
    is_used_R: Tensor
    """Whether the row counts."""
    left_out_RV: Tensor | None = None
    """Values that do not count although their row does; None: no value."""


def head_losses(head: nn.Linear, read_RX: Tensor, asked: Sequence[Asked]) -> tuple[Tensor, Tensor]:
    """(guesses_RF, losses_W) of what `head` makes of `read_RX`.

    Its last W outputs are log odds: what is asked, one behind the other. `losses_W`: their binary cross entropies,
    summed over the rows that count. `guesses_RF`: its first outputs, as they are.
    """
    if _can_be_compiled(read_RX):
        given = (head.weight, head.bias, read_RX, list(asked), torch.is_grad_enabled())
        guesses_RF, losses_W = _HeadLosses.apply(*given)  # type: ignore[no-untyped-call]
        return guesses_RF, losses_W
    sizes = [one.is_so_RV.shape[1] for one in asked]
    guesses_RF, *logits = head(read_RX).split([head.out_features - sum(sizes), *sizes], dim=1)
    losses = []
    for logits_RV, one in zip(logits, asked, strict=True):
        losses_RV = functional.binary_cross_entropy_with_logits(logits_RV, one.is_so_RV.float(), reduction="none")
        counts_RV = one.is_used_R[:, None] if one.left_out_RV is None else one.is_used_R[:, None] & ~one.left_out_RV
        losses.append((losses_RV * counts_RV).sum(dim=0))
    return guesses_RF, torch.cat(losses)


def class_loss(head: nn.Linear, read_MX: Tensor, ids_M: Tensor) -> Tensor:
    """Cross entropy of what `head` makes of `read_MX` for values of which one is so, summed; none where no value is."""
    if _can_be_compiled(read_MX):
        loss: Tensor = _ClassLoss.apply(read_MX, head.weight, head.bias, ids_M, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return loss
    return functional.cross_entropy(head(read_MX), ids_M, ignore_index=PADDING_ID, reduction="sum")


def _can_be_compiled(given: Tensor) -> bool:
    return kernels.can_take(given) and not torch.is_autocast_enabled("cpu")


class _HeadLosses(torch.autograd.Function):
    """Of the gradient what does not depend on the losses' own is made at once, with the losses."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor, read: Tensor, asked: list[Asked], is_learned: bool
    ) -> tuple[Tensor, Tensor]:
        num_losses, read = sum(one.is_so_RV.shape[1] for one in asked), read.contiguous()
        num_guesses = len(weight) - num_losses
        guesses = torch.addmm(bias[:num_guesses], read, weight[:num_guesses].t())
        of_values, biases = weight[num_guesses:], bias[num_guesses:]
        losses, of_bias = read.new_zeros(2, num_losses)
        at_once, start = max(LEAST_VALUES, CACHED_LOGITS // max(1, len(read))), 0
        ctx.blocks, gradients = [], []
        for one in asked:
            is_so, is_used = one.is_so_RV.contiguous(), one.is_used_R.contiguous()
            left_out = None if one.left_out_RV is None else one.left_out_RV.contiguous()
            num_values = is_so.shape[1]
            for first in range(0, num_values, at_once):
                some = slice(first, min(num_values, first + at_once))
                block = slice(start + some.start, start + some.stop)
                logits = read @ of_values[block].t()
                came = (is_so[:, some], is_used, None if left_out is None else left_out[:, some])
                found = (losses[block], of_bias[block], is_learned)
                kernels.call("value_losses", *logits.shape, logits, biases[block], num_values, *came, *found)
                if is_learned:
                    ctx.blocks.append(block)
                    gradients.append(logits)
            start += num_values
        ctx.num_guesses = num_guesses
        ctx.save_for_backward(weight, read, of_bias, *gradients)
        return guesses, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None, None]:
        weight, read, of_bias_losses, *of_logits = ctx.saved_tensors
        of_guesses, of_losses = gradients
        of_weight, first = torch.empty_like(weight), ctx.num_guesses
        torch.mm(of_guesses.t(), read, out=of_weight[:first])
        of_bias = torch.cat([of_guesses.sum(dim=0), of_bias_losses * of_losses])
        of_read = of_guesses @ weight[:first]
        for block, gradient in zip(ctx.blocks, of_logits, strict=True):
            weighted = gradient * of_losses[block]
            of_read.addmm_(weighted, weight[first:][block])
            torch.mm(weighted.t(), read, out=of_weight[first:][block])
        return of_weight, of_bias, of_read, None, None


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
