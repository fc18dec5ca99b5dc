"""The halves of a narrow block in one go are its layers one after the other, only faster."""

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from caspr_spark.model import chance, fused_block, kernels
from caspr_spark.model.blocks import Attention, DecoderBlock, EncoderBlock
from caspr_spark.model.dropout import Dropout

HOW = [(16, 8, 32), (16, 16, 16), (48, 16, 80), (48, 16, 96), (64, 16, 256)]
"""width, num_heads, feed_forward: heads of 1 to 4 numbers, whole and half vectors of the processor."""
Block = TypeVar("Block", EncoderBlock, DecoderBlock)


@pytest.fixture(autouse=True)
def _is_compiled() -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def encoder_block(width: int, num_heads: int, feed_forward: int) -> EncoderBlock:
    return with_weights(EncoderBlock(width, num_heads, feed_forward, dropout=0.2))


def decoder_block(width: int, num_heads: int, feed_forward: int) -> DecoderBlock:
    return with_weights(DecoderBlock(width, num_heads, feed_forward, dropout=0.2))


def with_weights(block: Block) -> Block:
    torch.manual_seed(1)
    for weight in block.parameters():
        nn.init.normal_(weight, std=0.3)
    return block


def found(block: nn.Module, events: Tensor, *more: Tensor) -> list[Tensor]:
    """The output, and the gradients of events, memory and weights."""
    with chance.seeded(chunk_seed=1, step_seed=1):
        out = block(events, *more)
    read = [one for one in (events, *more) if one.requires_grad]
    weights = list(block.parameters())
    return [out.detach(), *torch.autograd.grad(out, [*read, *weights], drawn(*out.shape, seed=2).detach())]


def check_same(block: nn.Module, monkeypatch: pytest.MonkeyPatch, events: Tensor, *more: Tensor) -> None:
    """Raise AssertionError unless torch's operators, which see the same numbers wiped, give the same."""
    ours = found(block, events, *more)
    with monkeypatch.context() as without:
        without.setattr(kernels, "are_there", lambda: False)
        theirs = found(block, events, *more)
    for one, other in zip(ours, theirs, strict=True):
        largest = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * largest)


def seen(num_customers: int, num_events: int) -> Tensor:
    """bool [B, U]: the first and some others."""
    is_seen = torch.rand(num_customers, num_events, generator=torch.Generator().manual_seed(3)) < 0.6
    is_seen[:, 0] = True
    return is_seen


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize(("num_customers", "num_events"), [(1, 1), (5, 15), (9, 8), (70, 3), (3, 70), (2, 128)])
def test_blocks_give_what_their_layers_give(
    how: tuple[int, int, int], num_customers: int, num_events: int, is_training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, memory = drawn(num_customers, num_events, how[0]), drawn(num_customers, num_events + 1, how[0], seed=4)
    mask = seen(num_customers, num_events)[:, None, None]
    check_same(encoder_block(*how).train(is_training), monkeypatch, events, mask)
    may_see = seen(num_customers, num_events + 1)
    check_same(decoder_block(*how).train(is_training), monkeypatch, events, memory, may_see)


def test_both_halves_are_computed_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("layer by layer")

    monkeypatch.setattr(Attention, "forward", refuse)
    monkeypatch.setattr(nn.Linear, "forward", refuse)
    events = drawn(4, 15, 16)
    encoder_block(16, 8, 32)(events, seen(4, 15)[:, None, None])
    decoder_block(16, 8, 32)(events, drawn(4, 16, 16), seen(4, 16))
    with pytest.raises(AssertionError, match="layer by layer"):
        encoder_block(16, 2, 32)(events, None)


def test_a_share_of_no_dropout_and_one_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    events = drawn(5, 15, 16)
    for share in (0.0, 1.0):
        block = with_weights(EncoderBlock(16, 8, 32, share))
        check_same(block, monkeypatch, events, seen(5, 15)[:, None, None])
    assert torch.equal(block(events, None), events)


def test_the_numbers_wiped_are_those_that_layers_would_draw() -> None:
    """Of one generator, in the same order: what follows a block in a network draws the same."""
    block, events, next_draws = encoder_block(16, 8, 32), drawn(5, 15, 16), []
    for is_fused in (True, False):
        with chance.seeded(chunk_seed=1, step_seed=1), pytest.MonkeyPatch.context() as patch:
            if not is_fused:
                patch.setattr(kernels, "are_there", lambda: False)
            block(events, None)
            next_draws.append(torch.rand(3, generator=chance.of_chunk()))
    assert torch.equal(*next_draws)


def test_scores_beyond_what_an_exponential_can_hold_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    block = encoder_block(16, 8, 32).eval()
    with torch.no_grad():
        block.attention.query.weight *= 1e4
    ours, *gradients = found(block, drawn(6, 20, 16), torch.ones(6, 1, 1, 20, dtype=torch.bool))
    monkeypatch.setattr(kernels, "are_there", lambda: False)
    torch.testing.assert_close(ours, block(drawn(6, 20, 16), None).detach(), rtol=1e-4, atol=1e-4)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_what_gelu_makes_of_large_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    block = encoder_block(16, 8, 32).eval()
    with torch.no_grad():
        block.feed_forward[1].bias.copy_(torch.linspace(-60, 60, 32))
    check_same(block, monkeypatch, drawn(5, 15, 16), seen(5, 15)[:, None, None])


def test_who_may_see_nothing_gets_nan_and_nobody_else() -> None:
    is_seen = seen(4, 15)
    is_seen[2] = False
    out = encoder_block(16, 8, 32).eval()(drawn(4, 15, 16), is_seen[:, None, None])
    assert out.isnan().flatten(1).all(dim=1).tolist() == [False, False, True, False]
    assert out.isnan().flatten(1).any(dim=1).tolist() == [False, False, True, False]


def test_what_does_not_lie_side_by_side_in_memory_is_read_right() -> None:
    block = decoder_block(16, 8, 32).eval()
    given = [drawn(4, 15, 16).detach(), drawn(4, 16, 16, seed=4).detach(), seen(4, 16)]
    scattered = [one.transpose(0, 1).contiguous().transpose(0, 1) for one in given]
    assert not any(one.is_contiguous() for one in scattered)
    torch.testing.assert_close(block(*scattered), block(*given), rtol=0, atol=0)


def test_no_customers_and_no_events_are_no_error() -> None:
    for shape in ((0, 15, 16), (3, 0, 16)):
        assert encoder_block(16, 8, 32)(torch.zeros(shape), None).shape == shape


def test_the_gradient_of_many_rows_keeps_its_digits() -> None:
    block, events = encoder_block(16, 8, 32).eval(), drawn(2_000, 15, 16)
    exact = EncoderBlock(16, 8, 32, 0.2).double().eval()
    exact.load_state_dict(block.state_dict())
    ours = torch.autograd.grad(block(events, None).square().sum(), list(block.parameters()))
    right = torch.autograd.grad(exact(events.double(), None).square().sum(), list(exact.parameters()))
    for one, other in zip(ours, right, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_wide_blocks_large_heads_and_other_numbers_are_torchs() -> None:
    def suits(
        width: int,
        num_heads: int,
        mask: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        memory: object = None,
    ) -> bool:
        attention, norm = Attention(width, num_heads), nn.LayerNorm(width, dtype=dtype)
        return fused_block.suits_attention(torch.zeros(2, 15, width), memory, norm, attention, mask)

    assert suits(16, 8)
    assert suits(64, 16, torch.ones(2, 1, 1, 15, dtype=torch.bool))
    assert suits(256, 64, memory=torch.zeros(2, 16, 256))
    assert not suits(64, 8)
    assert not suits(24, 8)
    assert not suits(272, 136)
    assert not suits(16, 8, torch.ones(2, 8, 15, 15, dtype=torch.bool))
    assert not suits(16, 8, torch.zeros(2, 1, 1, 15))
    assert not suits(16, 8, dtype=torch.float64)
    assert not suits(16, 8, memory=torch.zeros(2, 16, 16, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(16, 8)
    assert fused_block.suits_feed_forward(torch.zeros(2, 15, 64), nn.LayerNorm(64), 128)
    assert not fused_block.suits_feed_forward(torch.zeros(2, 15, 64), nn.LayerNorm(64), 100)
    assert not fused_block.suits_feed_forward(torch.zeros(2, 15, 128), nn.LayerNorm(128), 128)


def test_what_c_would_read_wrong_is_refused() -> None:
    events, memory, see = drawn(5, 15, 16), drawn(5, 16, 16), seen(5, 16)
    block = decoder_block(16, 8, 32)
    for wrong in (memory[:1], memory[:, :, :8]):
        with pytest.raises(ValueError, match=r"block: expected \(5, 16, 16\) of float32 on the CPU, found"):
            block(events, wrong, see)
    with pytest.raises(ValueError, match=r"block: expected \(32,\)"):
        block(drawn(5, 15, 32), drawn(5, 16, 32), see)
    block.feed_forward[4].double()
    with pytest.raises(ValueError, match=r"found .* of torch\.float64"):
        block(events, memory, see)


def test_weights_that_do_not_lie_side_by_side_are_read_right(monkeypatch: pytest.MonkeyPatch) -> None:
    block = encoder_block(16, 8, 32)
    for layer in (block.attention.query, block.feed_forward[1]):
        layer.weight.data = layer.weight.data.t().contiguous().t()
        assert not layer.weight.is_contiguous()
    check_same(block, monkeypatch, drawn(5, 15, 16), seen(5, 15)[:, None, None])


def test_each_dropout_wipes_its_own_share_where_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    block = encoder_block(16, 8, 32)
    block.feed_forward[3] = Dropout(0.7)
    check_same(block, monkeypatch, drawn(5, 15, 16), seen(5, 15)[:, None, None])
    for part in (block.feed_forward[3], block.dropout):
        part.eval()
        check_same(block, monkeypatch, drawn(5, 15, 16), seen(5, 15)[:, None, None])
        part.train()
