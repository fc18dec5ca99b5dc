"""The embeddings of the values that events hold, of all attributes side by side, on a CPU by `kernels.c`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from caspr_spark.model import kernels
from schemas.vocabulary import PADDING_ID


def embedded(ids: Sequence[Tensor], tables: Sequence[Tensor], sparse: Sequence[bool]) -> list[Tensor]:
    """[B, T, E], in one piece or several: of each of several attributes, one behind the other, the rows of its table.

    `ids`: int64 [B, T, X] an attribute, columns of tensors whose customers and events lie side by side; X values at
    most, whose rows are summed and divided by the root of their number. Where there are none, or padding alone, stand
    zeros. The gradient of a table is dense, or of rows where it is `sparse`. Raises IndexError or RuntimeError where
    an id is none of the table's rows.
    """
    if tables and not any(sparse) and all(kernels.can_take(table) for table in tables):
        return [_Embedded.apply(list(ids), *tables)]  # type: ignore[no-untyped-call]
    return [
        embedded_by_torch(one, table, sparse=is_sparse)
        for one, table, is_sparse in zip(ids, tables, sparse, strict=True)
    ]


def embedded_by_torch(ids_BTX: Tensor, table_VD: Tensor, *, sparse: bool) -> Tensor:
    """[B, T, D], as `embedded` of one attribute; with `sparse` the gradient is of rows."""
    if ids_BTX.shape[2] == 1:
        return functional.embedding(ids_BTX[:, :, 0], table_VD, padding_idx=PADDING_ID, sparse=sparse)
    if torch.compiler.is_exporting():  # ONNX has no bags; padding's row is zeros
        summed_BTD = functional.embedding(ids_BTX, table_VD, padding_idx=PADDING_ID).sum(dim=2)
    else:
        summed_LD = functional.embedding_bag(
            ids_BTX.flatten(0, 1), table_VD, mode="sum", padding_idx=PADDING_ID, sparse=sparse
        )
        summed_BTD = summed_LD.view(*ids_BTX.shape[:2], table_VD.shape[1])
    num_values_BT1 = (ids_BTX != PADDING_ID).sum(dim=-1, keepdim=True).clamp(min=1)
    return summed_BTD / num_values_BT1.sqrt()


def _is_even(ids_BTX: Tensor) -> bool:
    """Whether all events, those of the next customer too, lie as far from each other."""
    of_customer, of_event, of_value = ids_BTX.stride()
    return of_value == 1 and of_customer == ids_BTX.shape[1] * of_event


class _Embedded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: list[Tensor], *tables: Tensor) -> Tensor:
        num_customers, num_events = ids[0].shape[:2]
        ids = [one if _is_even(one) else one.contiguous() for one in ids]
        of_events = tables[0].new_empty(num_customers, num_events, sum(table.shape[1] for table in tables))
        start = 0
        for one, table in zip(ids, tables, strict=True):
            assert one.dtype == torch.int64
            sizes = (num_customers * num_events, one.shape[2], *table.shape, one.stride(1))
            part = of_events[:, :, start : start + table.shape[1]]
            kernels.call("embedded", *sizes, one, table.contiguous(), of_events.shape[2], part)
            start += table.shape[1]
        ctx.ids, ctx.shapes = ids, [table.shape for table in tables]
        return of_events

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        of_events, start, of_tables = gradients[0].contiguous(), 0, []
        num_places = of_events.shape[0] * of_events.shape[1]
        for one, shape in zip(ctx.ids, ctx.shapes, strict=True):
            of_table, scaled = of_events.new_zeros(shape), of_events.new_empty(shape[1])
            part = of_events[:, :, start : start + shape[1]]
            sizes = (num_places, one.shape[2], shape[1], one.stride(1))
            kernels.call("embedded_backward", *sizes, one, of_events.shape[2], part, scaled, of_table)
            of_tables.append(of_table)
            start += shape[1]
        return None, *of_tables
