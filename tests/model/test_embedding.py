"""The embeddings of all attributes by our own C are those of torch, and so are the gradients of the tables."""

import pytest
import torch
from torch import Tensor

from caspr_spark.model import kernels
from caspr_spark.model.embedding import embedded, embedded_by_torch

SIZES = ((1, 7, 2), (1, 300, 17), (5, 40, 6), (3, 9, 33))
"""Values an event, ids, and numbers an embedding, of each attribute."""


def ids_of(num_customers: int = 6, num_events: int = 11) -> list[Tensor]:
    """Columns of two tensors, of which many are padding; some events hold none, some a value twice."""
    torch.manual_seed(1)
    categorical = torch.stack([torch.randint(0, num, (num_customers, num_events)) for _, num, _ in SIZES[:2]], dim=-1)
    sets = [torch.randint(0, num, (num_customers, num_events, width)) for width, num, _ in SIZES[2:]]
    sets_BTS = torch.cat(sets, dim=-1) * (torch.rand(num_customers, num_events, 8) < 0.4)
    return [*torch.split(categorical, 1, dim=-1), *torch.split(sets_BTS, [5, 3], dim=-1)]


def tables_of() -> list[Tensor]:
    torch.manual_seed(2)
    tables = [torch.randn(num, dimension) for _, num, dimension in SIZES]
    for table in tables:
        table[0] = 0.0
    return [table.requires_grad_() for table in tables]


def side_by_side(ids: list[Tensor], tables: list[Tensor]) -> Tensor:
    return torch.cat(embedded(ids, tables, [False] * len(tables)), dim=-1)


@pytest.mark.parametrize("num_events", [1, 11])
@pytest.mark.parametrize("num_customers", [1, 6])
def test_rows_and_gradients_are_those_of_torch(num_customers: int, num_events: int) -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"
    ids, tables = ids_of(num_customers, num_events), tables_of()
    by_torch = [embedded_by_torch(*pair, sparse=False) for pair in zip(ids, tables, strict=True)]
    theirs = torch.cat(by_torch, dim=-1)
    ours = side_by_side(ids, tables)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(theirs)
    gradients = [torch.autograd.grad((found * weights).sum(), tables) for found in (ours, theirs)]
    torch.testing.assert_close(*gradients)
    assert not any(gradient[0].any() for gradient in gradients[0])  # padding learns nothing


def test_ids_may_lie_anywhere() -> None:
    tables = tables_of()
    turned = [one.permute(2, 1, 0).contiguous().permute(2, 1, 0) for one in ids_of()]
    torch.testing.assert_close(side_by_side(turned, tables), side_by_side(ids_of(), tables))


@pytest.mark.parametrize("way", ["compiled", "torch"])
@pytest.mark.parametrize("wrong", [-1, 40])
@pytest.mark.parametrize("attribute", [2])
def test_an_id_without_a_row_is_refused(way: str, wrong: int, attribute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "torch":
        monkeypatch.setattr(kernels, "are_there", lambda: False)
    ids = ids_of()
    ids[attribute][2, 3, 1] = wrong
    with pytest.raises((IndexError, RuntimeError)):
        side_by_side(ids, tables_of())
