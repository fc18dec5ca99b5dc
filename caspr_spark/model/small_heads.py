"""Attention of very small heads on a CPU, such as the paper's 8 heads of 2 numbers.

The same as torch's scaled_dot_product_attention, which there spends its time on calls of tiny matrix products: one of
our own (`kernels.c`) takes a sixth of its time for 15 events, a tenth for 512. It keeps no number for each pair of
events. Who may see nothing gets NaN, not 0. The letters are those of `batch`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from caspr_spark.model import kernels

LARGEST_HEAD = 4


def suits(query_BTD: Tensor, num_heads: int, mask: Tensor | None) -> bool:
    """Whether this way is the faster one, and possible. `mask` as in `Attention`."""
    is_small = query_BTD.shape[-1] // num_heads <= LARGEST_HEAD
    of_events = mask is None or (mask.dtype == torch.bool and mask.shape[:3] == (len(query_BTD), 1, 1))
    return is_small and of_events and kernels.can_take(query_BTD)


def attention(
    query_BTD: Tensor, key_value_BUX: Tensor, num_heads: int, is_seen_BU: Tensor | None, *, is_causal: bool
) -> Tensor:
    """mixed_BTD. `key_value_BUX`: the keys, [B, U, D], beside the values. Somebody must be seen by everybody.

    With `is_causal`, where T is U, nobody attends to a later one.
    """
    mixed_BTD: Tensor = _SmallHeads.apply(query_BTD, key_value_BUX, num_heads, is_seen_BU, is_causal)  # type: ignore[no-untyped-call]
    return mixed_BTD


class _SmallHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key_value: Tensor, num_heads: int, is_seen: Tensor | None, is_causal: bool
    ) -> Tensor:
        query, key_value = query.contiguous(), key_value.contiguous()
        is_seen = None if is_seen is None else is_seen.contiguous()
        mixed = torch.empty_like(query)
        of_rows = query.new_empty(2, len(query), num_heads, query.shape[1])
        num_customers, num_events, width = query.shape
        assert width // num_heads <= LARGEST_HEAD
        assert key_value.shape[1] == (num_events if is_causal else key_value.shape[1])
        assert is_seen is None or is_seen.shape == key_value.shape[:2]
        sizes = (num_customers, num_events, key_value.shape[1], num_heads, width // num_heads)
        given = (query, key_value, is_seen)
        kernels.call("attention_forward", *sizes, *given, is_causal, mixed, *of_rows)
        ctx.sizes, ctx.is_causal = sizes, is_causal
        ctx.save_for_backward(*given, mixed, of_rows)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None, None]:
        query, key_value, is_seen, mixed, of_rows = ctx.saved_tensors
        of_query, of_key_value = torch.empty_like(query), torch.empty_like(key_value)
        given, found = (query, key_value, is_seen), (mixed, *of_rows, gradients[0].contiguous())
        kernels.call("attention_backward", *ctx.sizes, *given, ctx.is_causal, *found, of_query, of_key_value)
        return of_query, of_key_value, None, None, None
