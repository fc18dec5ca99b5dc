"""Attention of very small heads on a CPU, such as the paper's 8 heads of 2 numbers.

The same as torch's scaled_dot_product_attention, which there spends its time on calls of tiny matrix products: one of
our own in C (`small_heads.c`, compiled by `caspr_spark.native`) takes a sixth of its time for 15 events, a tenth for
512. It keeps no number for each pair of events. The letters are those of `blocks`.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor

from caspr_spark import native

LARGEST_HEAD = 4


def suits(query_BTD: Tensor, num_heads: int, mask: Tensor | None) -> bool:
    """Whether this way is the faster one, and possible. `mask` as in `Attention`."""
    is_small = query_BTD.shape[-1] // num_heads <= LARGEST_HEAD
    is_float = query_BTD.dtype == torch.float32 and query_BTD.device.type == "cpu"
    if not (is_small and is_float) or torch.compiler.is_exporting():  # a graph has one operator for it
        return False
    of_events = mask is None or (mask.dtype == torch.bool and mask.shape[:3] == (len(query_BTD), 1, 1))
    return of_events and _library() is not None


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
        given = (query, key_value, is_seen)
        _call("attention_forward", num_heads, is_causal, given, (mixed, *of_rows))
        ctx.num_heads, ctx.is_causal = num_heads, is_causal
        ctx.save_for_backward(*given, mixed, of_rows)
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None, None]:
        query, key_value, is_seen, mixed, of_rows = ctx.saved_tensors
        of_query, of_key_value = torch.empty_like(query), torch.empty_like(key_value)
        others = (mixed, *of_rows, gradients[0].contiguous(), of_query, of_key_value)
        _call("attention_backward", ctx.num_heads, ctx.is_causal, (query, key_value, is_seen), others)
        return of_query, of_key_value, None, None, None


def _call(
    name: str,
    num_heads: int,
    is_causal: bool,
    given: tuple[Tensor, Tensor, Tensor | None],
    others: tuple[Tensor, ...],
) -> None:
    query, key_value, _ = given
    num_customers, num_events, width = query.shape
    sizes = (num_customers, num_events, key_value.shape[1], num_heads, width // num_heads)
    function = getattr(_library(), name)
    is_short = function(
        *map(ctypes.c_int, sizes), *map(_pointer, given), ctypes.c_int(is_causal), *map(_pointer, others)
    )
    if is_short:
        raise MemoryError(f"{name}: no memory for {num_events} events")


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _library() -> ctypes.CDLL | None:
    return native.library("caspr_spark.model", "small_heads.c")
