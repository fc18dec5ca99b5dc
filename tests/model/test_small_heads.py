"""Attention of small heads is torch's own, only faster."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.model import kernels, small_heads
from caspr_spark.model.blocks import Attention

B = 5
FEW_SEEN = torch.tensor([[1], [40], [2], [3], [17]])


def parts(num_heads: int, head: int, *, asking: int, seen: int, times: float = 1.0) -> tuple[Tensor, Tensor]:
    """query_BTD and key_value_BUX."""
    torch.manual_seed(1)
    width = num_heads * head
    query, key_value = torch.randn(B, asking, width) * times, torch.randn(B, seen, 2 * width) * times
    return query.requires_grad_(), key_value.requires_grad_()


def torch_attention(
    query: Tensor, key_value: Tensor, num_heads: int, is_seen: Tensor | None, *, is_causal: bool
) -> Tensor:
    by_head = [part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (query, *key_value.chunk(2, dim=-1))]
    mask = None if is_seen is None else is_seen[:, None, None]
    mixed = functional.scaled_dot_product_attention(*by_head, attn_mask=mask, is_causal=is_causal)
    return mixed.transpose(1, 2).flatten(-2)


@pytest.fixture(autouse=True)
def _is_compiled() -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"


@pytest.mark.parametrize("head", [1, 2, 3, 4])
@pytest.mark.parametrize(("asking", "seen"), [(1, 1), (6, 4), (15, 16), (15, 15), (8, 40), (41, 40)])
@pytest.mark.parametrize("is_masked", [False, True])
def test_outputs_and_gradients_are_those_of_torch(head: int, asking: int, seen: int, is_masked: bool) -> None:
    query, key_value = parts(3, head, asking=asking, seen=seen)
    is_seen = torch.arange(seen) < FEW_SEEN if is_masked else None
    check_same(query, key_value, 3, is_seen, is_causal=False)


@pytest.mark.parametrize("num_events", [1, 7, 8, 9, 15, 100])
def test_causal_attention_is_that_of_torch(num_events: int) -> None:
    query, key_value = parts(8, 2, asking=num_events, seen=num_events)
    check_same(query, key_value, 8, None, is_causal=True)


def test_scores_beyond_what_an_exponential_can_hold_stay_finite() -> None:
    query, key_value = parts(3, 2, asking=6, seen=20, times=1e4)
    mixed = small_heads.attention(query, key_value, 3, None, is_causal=False)
    torch.testing.assert_close(mixed, torch_attention(query, key_value, 3, None, is_causal=False))
    for gradient in torch.autograd.grad(mixed.sum(), (query, key_value)):  # here torch's own are beyond 1e14
        assert gradient.abs().max() < 1e3


def check_same(query: Tensor, key_value: Tensor, num_heads: int, is_seen: Tensor | None, *, is_causal: bool) -> None:
    gradient = torch.randn(query.shape, generator=torch.Generator().manual_seed(2))
    found = []
    for attention in (small_heads.attention, torch_attention):
        mixed = attention(query, key_value, num_heads, is_seen, is_causal=is_causal)
        found.append((mixed.detach(), *torch.autograd.grad(mixed, (query, key_value), gradient)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_what_does_not_lie_side_by_side_in_memory_is_read_right() -> None:
    query, key_value = parts(3, 2, asking=6, seen=4)
    is_seen = (torch.arange(4) < FEW_SEEN).t().contiguous().t()
    scattered = [part.detach().transpose(0, 1).contiguous().transpose(0, 1) for part in (query, key_value)]
    mixed = small_heads.attention(*scattered, 3, is_seen, is_causal=False)
    torch.testing.assert_close(mixed, torch_attention(query, key_value, 3, is_seen, is_causal=False).detach())


def test_it_is_used_for_small_heads_alone() -> None:
    def suits(head: int, mask: Tensor | None = None, dtype: torch.dtype = torch.float32) -> bool:
        return small_heads.suits(torch.zeros(2, 15, 3 * head, dtype=dtype), 3, mask)

    assert suits(2)
    assert suits(4, torch.ones(2, 1, 1, 15, dtype=torch.bool))
    assert not suits(5)
    assert not suits(2, torch.zeros(2, 1, 1, 15))
    assert not suits(2, torch.ones(2, 3, 15, 15, dtype=torch.bool))
    assert not suits(2, dtype=torch.bfloat16)


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_layer_gives_the_same_without_a_compiler(monkeypatch: pytest.MonkeyPatch, is_causal: bool) -> None:
    torch.manual_seed(3)
    layer, events = Attention(16, 8), torch.randn(4, 15, 16)
    mask = None if is_causal else (torch.arange(15) < torch.tensor([[1], [15], [7], [3]]))[:, None, None]
    fast = layer(events, events, mask, is_causal=is_causal)
    monkeypatch.setattr(kernels, "are_there", lambda: False)

    torch.testing.assert_close(fast, layer(events, events, mask, is_causal=is_causal))
