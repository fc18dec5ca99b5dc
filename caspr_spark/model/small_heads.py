"""Attention of very small heads over short histories, on a CPU: the paper's 8 heads of 2 numbers over 15 events.

The same as torch's scaled_dot_product_attention, which there spends its time on calls of tiny matrix products. Here the
batch is the last dimension, so that each operator is one long vector operation. The letters are those of `blocks`.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_HEAD = 4
LANES = 16
"""Numbers that a vector operation of the widest processors takes at once."""
MOST_PAIRS = 1024
"""Pairs of an event that attends and one that is attended to; with more of them torch's own is faster."""


def suits(query_BHTK: Tensor, key_BHUK: Tensor, mask: Tensor | None) -> bool:
    """Whether this way is the faster one, and possible."""
    num_pairs, head = query_BHTK.shape[2] * key_BHUK.shape[2], query_BHTK.shape[3]
    is_plain = mask is None or mask.dtype == torch.bool
    is_float = query_BHTK.dtype == torch.float32 and query_BHTK.device.type == "cpu"
    if torch.compiler.is_exporting():  # as one operator, which every runtime computes in its own way
        return False
    return head <= LARGEST_HEAD and num_pairs <= MOST_PAIRS and is_plain and is_float


def attention(
    query_BHTK: Tensor, key_BHUK: Tensor, value_BHUK: Tensor, mask: Tensor | None, *, is_causal: bool
) -> Tensor:
    """mixed_BHTK. `mask`, [B or 1, H or 1, T or 1, U]: True where one may attend; nobody may be left with nothing."""
    blocked: Tensor | None = None
    if is_causal:
        num_events = query_BHTK.shape[2]
        blocked = torch.ones(num_events, num_events, dtype=torch.bool).triu_(1)[None, :, :, None]
    if mask is not None and not mask.all():
        blocked = ~mask.permute(1, 2, 3, 0) if blocked is None else blocked | ~mask.permute(1, 2, 3, 0)
    num_customers = len(query_BHTK)
    by_batch = (_padded(part.permute(1, 3, 2, 0)) for part in (query_BHTK, key_BHUK, value_BHUK))
    if blocked is not None and blocked.shape[-1] == num_customers:
        blocked = _padded(blocked)
    mixed_HKTB: Tensor = _SmallHeads.apply(*by_batch, blocked)  # type: ignore[no-untyped-call]
    return mixed_HKTB[..., :num_customers].permute(3, 0, 2, 1)


def _padded(of_batch: Tensor) -> Tensor:
    """With zeros behind the last customer, so that no vector operation ends within a register."""
    missing = -of_batch.shape[-1] % LANES
    return functional.pad(of_batch, (0, missing)) if missing else of_batch.contiguous()


class _SmallHeads(torch.autograd.Function):
    """query_HKTB, key_HKUB, value_HKUB, and where nobody attends, [H or 1, T or 1, U, B or 1] -> mixed_HKTB."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
        ctx.scale = query.shape[1] ** -0.5
        query = query * ctx.scale
        weights_HTUB = _products(query, key)
        if blocked is not None:
            weights_HTUB.masked_fill_(blocked, -math.inf)
        weights_HTUB.sub_(weights_HTUB.amax(dim=2, keepdim=True)).exp_()
        total_HTB = weights_HTUB.sum(dim=2)
        mixed = torch.zeros_like(query)
        for of_mixed, of_value in zip(mixed.unbind(dim=1), value.unbind(dim=1), strict=True):
            for place, weights_HTB in enumerate(weights_HTUB.unbind(dim=2)):
                of_mixed.addcmul_(weights_HTB, of_value[:, None, place])
        mixed.div_(total_HTB[:, None])
        ctx.save_for_backward(query, key, value, weights_HTUB, total_HTB, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, weights_HTUB, total_HTB, mixed = ctx.saved_tensors
        of_mixed = gradients[0].contiguous()
        shares_HTUB = weights_HTUB / total_HTB[:, :, None]
        of_scores_HTUB = _products(of_mixed, value)
        of_scores_HTUB.sub_((of_mixed * mixed).sum(dim=1)[:, :, None]).mul_(shares_HTUB)
        of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        products = torch.empty_like(shares_HTUB)
        for number in range(query.shape[1]):
            of_value[:, number] = torch.mul(shares_HTUB, of_mixed[:, number, :, None], out=products).sum(dim=1)
            of_key[:, number] = torch.mul(of_scores_HTUB, query[:, number, :, None], out=products).sum(dim=1)
            of_query[:, number] = torch.mul(of_scores_HTUB, key[:, number, None], out=products).sum(dim=2)
        return of_query.mul_(ctx.scale), of_key, of_value, None


def _products(one_HKTB: Tensor, other_HKUB: Tensor) -> Tensor:
    """[H, T, U, B]: the products of every pair, summed over K."""
    summed_HTUB = one_HKTB[:, 0, :, None] * other_HKUB[:, 0, None]
    for number in range(1, one_HKTB.shape[1]):
        summed_HTUB.addcmul_(one_HKTB[:, number, :, None], other_HKUB[:, number, None])
    return summed_HTUB
