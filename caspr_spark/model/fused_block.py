"""The halves of a narrow transformer block on a CPU, each in one pass over the events (`kernels.c`).

The same as the layers of `blocks` one after the other, which there spend their time on calls of small operators, during
which other threads of Python wait, and keep what each of them made. Of a half the gradient needs but its rows, what
attention gave and two numbers a head; it makes the rest anew. The letters are those of `batch`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from caspr_spark.model import kernels
from caspr_spark.model.dropout import Draw, Dropout

if TYPE_CHECKING:
    from caspr_spark.model.blocks import Attention

LARGEST_HEAD, WIDEST_OF_HEADS = 4, 256
"""Numbers of a head; larger ones are as fast with torch's matrix products. Of all heads."""
WIDEST, WIDEST_HIDDEN = 64, 256
"""Of position-wise layers; wider ones are matrix products most of all, which are as fast in torch's."""


def takes_attention(width: int, num_heads: int) -> bool:
    """Whether attention of this shape is computed so, on a CPU in float32, where a mask is of events alone."""
    is_small = width // num_heads <= LARGEST_HEAD and width <= WIDEST_OF_HEADS
    return is_small and width % kernels.LANES == 0 and kernels.are_there()


def takes_feed_forward(width: int, hidden: int) -> bool:
    """Whether position-wise layers of this shape are computed so, on a CPU in float32."""
    is_narrow = width <= WIDEST and hidden <= WIDEST_HIDDEN
    return is_narrow and width % kernels.LANES == hidden % kernels.LANES == 0 and kernels.are_there()


def suits_attention(
    events_BTD: Tensor, memory_BUD: Tensor | None, norm: nn.LayerNorm, attention: "Attention", mask: object
) -> bool:
    """Whether these events' attention is computed so. The memory and `mask` as in `Attention`."""
    if not (_suits(events_BTD, norm) and (memory_BUD is None or kernels.can_take(memory_BUD))):
        return False
    if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape[1:3] == (1, 1)):
        return False
    return takes_attention(events_BTD.shape[-1], attention.num_heads)


def suits_feed_forward(events: Tensor, norm: nn.LayerNorm, hidden: int) -> bool:
    """Whether these events' position-wise layers are computed so."""
    return _suits(events, norm) and takes_feed_forward(events.shape[-1], hidden)


def _suits(events: Tensor, norm: nn.LayerNorm) -> bool:
    """`norm` stands for all weights of a block."""
    can_take = kernels.can_take(events) and kernels.can_take(norm.weight)
    return can_take and events.numel() > 0 and not torch.is_autocast_enabled("cpu")


def attended(
    events_BTD: Tensor,
    memory_BUD: Tensor | None,
    norm: nn.LayerNorm,
    attention: "Attention",
    dropout: Dropout,
    is_seen_BU: Tensor | None,
    *,
    is_causal: bool,
) -> Tensor:
    """events_BTD + dropout(attention(norm(events_BTD))).

    They attend to the memory or, where there is none, to one another; with `is_causal` nobody to a later event. Who may
    see nothing gets NaN.
    """
    query, output = attention.query, attention.output
    weights = (norm.weight, norm.bias, query.weight, query.bias, attention.key_value.weight, output.weight, output.bias)
    how = (is_seen_BU, is_causal, attention.num_heads, norm.eps, dropout.draw())
    added_BTD: Tensor = _Attended.apply(events_BTD, memory_BUD, *weights, *how)  # type: ignore[no-untyped-call]
    return added_BTD


def fed(
    events: Tensor, norm: nn.LayerNorm, up: nn.Linear, inner_dropout: Dropout, down: nn.Linear, dropout: Dropout
) -> Tensor:
    """events + dropout(down(inner_dropout(gelu(up(norm(events))))))."""
    weights = (norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias)
    draws = (inner_dropout.draw(), dropout.draw())
    added: Tensor = _Fed.apply(events, *weights, norm.eps, *draws)  # type: ignore[no-untyped-call]
    return added


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        seen: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        query: Tensor,
        query_bias: Tensor,
        key_value: Tensor,
        output: Tensor,
        output_bias: Tensor,
        is_seen: Tensor | None,
        is_causal: bool,
        num_heads: int,
        epsilon: float,
        draw: Draw,
    ) -> Tensor:
        num_customers, num_events, width = rows.shape
        num_seen = num_events if seen is None else seen.shape[1]
        assert not is_causal or num_seen == num_events
        rows, seen = _given(rows, rows.shape), None if seen is None else _given(seen, (num_customers, num_seen, width))
        if is_seen is not None:
            is_seen = is_seen.expand(num_customers, num_seen).contiguous()
        norm_weight, norm_bias = _given(norm_weight, (width,)), _given(norm_bias, (width,))
        query, query_bias = _given(query, (width, width)), _given(query_bias, (width,))
        key_value, output = _given(key_value, (2 * width, width)), _given(output, (width, width))
        ctx.sizes = (num_customers, num_events, num_seen, num_heads, width // num_heads)
        ctx.is_causal, ctx.epsilon, ctx.draw = is_causal, epsilon, draw
        added, mixed = torch.empty_like(rows), torch.empty_like(rows)
        of_each = rows.new_empty(2, num_customers, num_heads, num_events)
        given = (rows, seen, norm_weight, norm_bias, epsilon, query, query_bias, key_value, output)
        found = (added, mixed, of_each)
        kernels.call("attended", *ctx.sizes, *given, _given(output_bias, (width,)), is_seen, is_causal, *draw, *found)
        kept = (rows, seen, norm_weight, norm_bias, query, query_bias, key_value, output, is_seen, mixed, of_each)
        ctx.save_for_backward(*kept)
        return added

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        rows, seen, *weights, is_seen, mixed, of_each = ctx.saved_tensors
        norm_weight, norm_bias, query, query_bias, key_value, output = weights
        of_rows, of_seen = torch.empty_like(rows), None if seen is None else torch.empty_like(seen)
        of_weights = [torch.zeros_like(weight) for weight in (*weights, norm_bias)]
        layers = (norm_weight, norm_bias, ctx.epsilon, query, query_bias, key_value, output)
        given = (rows, seen, *layers, is_seen, ctx.is_causal, *ctx.draw, mixed, of_each, gradients[0].contiguous())
        kernels.call("attended_backward", *ctx.sizes, *given, of_rows, of_seen, *of_weights)
        return of_rows, of_seen, *of_weights, None, None, None, None, None


class _Fed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        up: Tensor,
        up_bias: Tensor,
        down: Tensor,
        down_bias: Tensor,
        epsilon: float,
        inner: Draw,
        outer: Draw,
    ) -> Tensor:
        hidden, width = len(up), rows.shape[-1]
        rows = _given(rows, rows.shape)
        norm_weight, norm_bias = _given(norm_weight, (width,)), _given(norm_bias, (width,))
        up, up_bias, down = _given(up, (hidden, width)), _given(up_bias, (hidden,)), _given(down, (width, hidden))
        ctx.sizes, ctx.epsilon, ctx.draws = (rows.numel() // width, width, hidden), epsilon, (*inner, *outer)
        added = torch.empty_like(rows)
        given = (rows, norm_weight, norm_bias, epsilon, up, up_bias, down, _given(down_bias, (width,)))
        kernels.call("feed_forward", *ctx.sizes, *given, *ctx.draws, added)
        ctx.save_for_backward(rows, norm_weight, norm_bias, up, up_bias, down)
        return added

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        rows, norm_weight, norm_bias, up, up_bias, down = ctx.saved_tensors
        of_rows = torch.empty_like(rows)
        of_weights = [torch.zeros_like(weight) for weight in (norm_weight, norm_bias, up, up_bias, down, norm_bias)]
        given = (rows, norm_weight, norm_bias, ctx.epsilon, up, up_bias, down, *ctx.draws, gradients[0].contiguous())
        kernels.call("feed_forward_backward", *ctx.sizes, *given, of_rows, *of_weights)
        return of_rows, *of_weights, None, None, None


def _given(numbers: Tensor, shape: Sequence[int]) -> Tensor:
    """As C reads them. Raises ValueError where it would read something else."""
    if numbers.shape != torch.Size(shape) or not kernels.can_take(numbers):
        found = f"{tuple(numbers.shape)} of {numbers.dtype} on {numbers.device}"
        raise ValueError(f"block: expected {tuple(shape)} of float32 on the CPU, found {found}")
    return numbers.contiguous()
