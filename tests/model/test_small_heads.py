"""Attention of small heads is torch's own, only faster."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.model import small_heads
from caspr_spark.model.blocks import Attention

B, H, T, U, K = 5, 3, 6, 4, 2


def parts(*, num_seen: int = U, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(1)
    shapes = [(B, H, T, K), (B, H, num_seen, K), (B, H, num_seen, K)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def masked(kind: str) -> Tensor | None:
    may_see = {"none": torch.ones(B, U), "keys": torch.arange(U) < torch.tensor([[1], [4], [2], [3], [4]])}
    if kind == "pairs":
        return (torch.rand(1, H, T, U, generator=torch.Generator().manual_seed(2)) < 0.5) | (torch.arange(U) == 0)
    return None if kind == "no mask" else may_see[kind].bool()[:, None, None]


@pytest.mark.parametrize("kind", ["no mask", "none", "keys", "pairs"])
def test_outputs_and_gradients_are_those_of_torch(kind: str) -> None:
    mask = masked(kind)
    theirs = functional.scaled_dot_product_attention(*parts(), attn_mask=mask)
    ours = small_heads.attention(*parts(), mask, is_causal=False)

    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(lambda *given: small_heads.attention(*given, mask, is_causal=False), parts())


def test_causal_attention_is_that_of_torch() -> None:
    theirs = functional.scaled_dot_product_attention(*parts(num_seen=T), is_causal=True)
    ours = small_heads.attention(*parts(num_seen=T), None, is_causal=True)

    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(
        lambda *given: small_heads.attention(*given, None, is_causal=True), parts(num_seen=T)
    )


def test_scores_beyond_what_an_exponential_can_hold_stay_finite() -> None:
    query, key, value = (part * 1e4 for part in parts(dtype=torch.float32))
    theirs = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(small_heads.attention(query, key, value, None, is_causal=False), theirs)


def test_it_is_used_for_small_heads_of_short_histories_alone() -> None:
    def suits(num_events: int, head: int, mask: Tensor | None = None) -> bool:
        part = torch.zeros(2, 3, num_events, head)
        return small_heads.suits(part, part, mask)

    assert suits(15, 2)
    assert suits(15, 2, torch.ones(2, 1, 1, 15, dtype=torch.bool))
    assert not suits(15, 2, torch.zeros(2, 1, 1, 15))
    assert not suits(15, 16)
    assert not suits(256, 2)


def test_the_layer_gives_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    layer, events, mask = (
        Attention(16, 8),
        torch.randn(4, 15, 16),
        torch.arange(15) < torch.tensor([[1], [15], [7], [3]]),
    )
    fast = layer(events, events, mask[:, None, None])
    monkeypatch.setattr(small_heads, "suits", lambda *parts: False)

    torch.testing.assert_close(fast, layer(events, events, mask[:, None, None]))
