"""Attention that forgets: to oneself and to what is of a strictly earlier time, the less the longer ago.

On a CPU our own (`kernels.c`), which computes what is forgotten as it goes and keeps no number for each pair of events;
else torch's, with a bias for each pair. The letters are those of `batch`.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from caspr_spark.model import kernels
from caspr_spark.model.features import MICROSECONDS_A_DAY
from caspr_spark.model.packing import Packing

LONGEST_GAP_DAYS = 400.0
BLOCKED = 1e9
"""Logarithm of days: with the flattest slope there still is no weight left."""
HEADS = (8, 16, 24, 32)
"""Numbers a head that `kernels.c` can take."""
ROWS = 64
"""Events whose attention torch computes at once on a CPU: of no more than they may see."""


class Forgetting:
    """Who attends to whom in a batch, and how much is forgotten."""

    def __init__(self, packing: Packing, slopes_H: Tensor) -> None:
        assert not slopes_H.requires_grad  # they would get no gradient
        self.packing, self.batch, self.slopes_H = packing, packing.batch, slopes_H

    def attention(self, query_LD: Tensor, key_value_LX: Tensor) -> Tensor:
        """mixed_LD. `key_value_LX`: the keys, [L, D], beside the values."""
        if query_LD.shape[-1] // len(self.slopes_H) in HEADS and kernels.can_take(query_LD):
            where = (self._times, self.packing.starts)
            mixed_LD: Tensor = _Forgetting.apply(query_LD, key_value_LX, *where, self.slopes_H)  # type: ignore[no-untyped-call]
            return mixed_LD
        query_BHTK, key_BHTK, value_BHTK = (
            torch.unflatten(self.packing.unpack(part_LD), -1, (len(self.slopes_H), -1)).transpose(1, 2)
            for part_LD in (query_LD, *key_value_LX.chunk(2, dim=-1))
        )
        parts = []
        for rows, bias in self._biases:
            seen = (slice(None), slice(None), slice(rows.stop))
            parts.append(
                functional.scaled_dot_product_attention(
                    query_BHTK[:, :, rows], key_BHTK[seen], value_BHTK[seen], attn_mask=bias
                )
            )
        mixed_BHTK = torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
        return self.packing.pack(mixed_BHTK.transpose(1, 2).flatten(-2))

    @cached_property
    def _times(self) -> Tensor:
        """float64 [L], microseconds."""
        return self.packing.pack(self.batch.event_times_BT).double()

    @cached_property
    def _biases(self) -> list[tuple[slice, Tensor]]:
        return [(rows, self._bias(rows)) for rows in self._rows()]

    def _rows(self) -> list[slice]:
        """Which events torch computes at once; on a GPU, and in a graph that is exported, all."""
        if self.batch.device.type != "cpu" or torch.compiler.is_exporting():
            return [slice(None)]
        return [slice(start, start + ROWS) for start in range(0, self.batch.event_times_BT.shape[1], ROWS)]

    def _bias(self, rows: slice) -> Tensor:
        """What is added to the score of each of these T events and of the U until the last of them, [B, H, T, U]."""
        times_BT, is_real_BT = self.batch.event_times_BT, self.batch.is_real_BT
        until, position_T = slice(rows.stop), torch.arange(times_BT.shape[1], device=self.batch.device)
        since_BTU = times_BT[:, rows, None] - times_BT[:, None, until]
        is_itself_TU = position_T[rows, None] == position_T[None, until]
        may_see_BTU = ((since_BTU > 0) & is_real_BT[:, None, until]) | is_itself_TU
        log_days_BTU = (since_BTU.float() / MICROSECONDS_A_DAY).clamp_(0.0, LONGEST_GAP_DAYS).log1p_()
        bias_BHTU: Tensor = -self.slopes_H[:, None, None] * log_days_BTU.masked_fill_(~may_see_BTU, BLOCKED)[:, None]
        return bias_BHTU


class _Forgetting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key_value: Tensor, times: Tensor, starts: Tensor, slopes: Tensor) -> Tensor:
        given = [part.contiguous() for part in (query, key_value, times, starts, slopes)]
        num_events, width = query.shape
        assert key_value.shape == (num_events, 2 * width)
        assert times.shape == (num_events,)
        assert width // len(slopes) in HEADS
        sizes = (num_events, len(starts), len(slopes), width // len(slopes))
        mixed, of_rows = torch.empty_like(given[0]), query.new_empty(2, len(slopes), num_events)
        kernels.call("forgetting_forward", *sizes, *given, LONGEST_GAP_DAYS, mixed, *of_rows)
        ctx.sizes = sizes
        ctx.save_for_backward(*given, mixed, of_rows)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None, None]:
        *given, mixed, of_rows = ctx.saved_tensors
        of_query, of_key_value = (torch.empty_like(part) for part in given[:2])
        found = (mixed, *of_rows, gradients[0].contiguous())
        kernels.call("forgetting_backward", *ctx.sizes, *given, LONGEST_GAP_DAYS, *found, of_query, of_key_value)
        return of_query, of_key_value, None, None, None
