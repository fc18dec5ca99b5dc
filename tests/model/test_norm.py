"""Layer norm of narrow rows is torch's own, only faster."""

import pytest
import torch
from torch import Tensor, nn

from caspr_spark.model import kernels
from caspr_spark.model.norm import LayerNorm


def norm(width: int) -> LayerNorm:
    torch.manual_seed(1)
    layer = LayerNorm(width)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def check_same(layer: LayerNorm, rows: Tensor) -> None:
    gradient = torch.randn(rows.shape, generator=torch.Generator().manual_seed(2))
    found = []
    for forward in (layer, lambda given: nn.LayerNorm.forward(layer, given)):
        normed = forward(rows)
        found.append([normed.detach(), *torch.autograd.grad(normed, [rows, *layer.parameters()], gradient)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.fixture(autouse=True)
def _is_compiled() -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"


@pytest.mark.parametrize("width", [8, 16, 64, 256])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 7)])
def test_outputs_and_gradients_are_those_of_torch(width: int, shape: tuple[int, int]) -> None:
    rows = torch.randn(*shape, width) * 3 + 2
    check_same(norm(width), rows.requires_grad_())
    scattered = rows.detach().transpose(0, 1).contiguous().transpose(0, 1)
    check_same(norm(width), scattered.requires_grad_())


def test_the_gradient_of_many_rows_keeps_its_digits() -> None:
    layer, rows = norm(16), torch.randn(20_000, 16)
    exact = nn.LayerNorm(16, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    ours = torch.autograd.grad(layer(rows).square().sum(), list(layer.parameters()))
    expected = torch.autograd.grad(exact(rows.double()).square().sum(), list(exact.parameters()))
    for found, right in zip(ours, expected, strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4 * float(right.abs().max()))


def test_rows_of_one_number_are_the_bias() -> None:
    layer, rows = norm(16), torch.full((2, 3, 16), 1e3).requires_grad_()
    normed = layer(rows)
    torch.testing.assert_close(normed, layer.bias.expand_as(normed), rtol=0, atol=0)
    assert torch.autograd.grad(normed.square().sum(), rows)[0].isfinite().all()


@pytest.mark.parametrize("width", [3, 512])
def test_other_widths_are_torch_s(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "call", lambda *given: pytest.fail("called"))
    check_same(norm(width), torch.randn(2, 3, width).requires_grad_())


def test_without_a_compiler_it_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, rows = norm(16), torch.randn(2, 3, 16)
    fast = layer(rows)
    monkeypatch.setattr(kernels, "are_there", lambda: False)
    torch.testing.assert_close(fast, layer(rows))
