"""Dropout by 16 random bits a number does what nn.Dropout does."""

import pytest
import torch

from caspr_spark.model import chance, kernels
from caspr_spark.model.dropout import Dropout
from caspr_spark.model.splitmix import GOLDEN, signed, splitmix64


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_a_share_is_wiped_and_the_mean_stays(share: float) -> None:
    torch.manual_seed(1)
    found = Dropout(share)(torch.ones(1000, 1001))

    kept = found > 0
    assert kept.double().mean().item() == pytest.approx(1 - share, abs=0.002)  # four standard errors
    assert found[kept].unique().tolist() == pytest.approx([1 / (1 - share)], rel=2e-4)
    both = (kept[:, :-1] & kept[:, 1:]).double().mean().item()  # neighbours share no bits
    assert both == pytest.approx((1 - share) ** 2, abs=0.002)


def test_gradients_flow_through_what_is_kept() -> None:
    values = torch.ones(3, 7, requires_grad=True)
    found = Dropout(0.5)(values)
    found.sum().backward()
    assert torch.equal(values.grad, found)  # type: ignore[arg-type]


def test_what_is_added_to_is_not_wiped() -> None:
    values, onto = torch.randn(2, 3, 7).unbind()
    values.requires_grad_()
    onto.requires_grad_()
    kept = []
    for given in (None, onto):
        with chance.seeded(chunk_seed=1, step_seed=1):
            kept.append(Dropout(0.5)(values, given))
    assert torch.equal(kept[1], kept[0] + onto)
    of_values, of_onto = torch.autograd.grad(kept[1].sum(), [values, onto])
    torch.testing.assert_close(of_values * values, kept[0])
    assert torch.equal(of_onto, torch.ones(3, 7))
    assert torch.equal(Dropout(0.5).eval()(values, onto), values + onto)


@pytest.mark.parametrize("num_values", [0, 1, 3, 15, 16, 17, 31, 33, 100])
def test_bits_are_those_of_the_published_generator(num_values: int) -> None:
    with chance.seeded(chunk_seed=1, step_seed=1):
        found = Dropout(0.5)(torch.ones(num_values))
    key = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=torch.Generator().manual_seed(1)))
    bits = []
    for place in range(-(-num_values // 4)):
        output = int(splitmix64(torch.tensor(signed(key + place * GOLDEN))))
        bits += [output >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    assert found.tolist() == [0.0 if bit >= 2**15 else 2.0 for bit in bits[:num_values]]


def test_nothing_is_wiped_in_use_or_by_a_share_of_none() -> None:
    values = torch.randn(5, 5)
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)


def test_everything_may_be_wiped() -> None:
    assert torch.equal(Dropout(1.0)(torch.ones(9)), torch.zeros(9))


@pytest.mark.parametrize("share", [0.0001, 0.3, 1.0])
def test_the_same_numbers_are_wiped_without_a_compiler(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for is_compiled in (True, False):
        if not is_compiled:
            monkeypatch.setattr(kernels, "are_there", lambda: False)
        assert kernels.are_there() == is_compiled
        values = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with chance.seeded(chunk_seed=1, step_seed=1):
            kept = Dropout(share)(values)
        found.append((kept.detach(), torch.autograd.grad(kept.square().sum(), values)[0]))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
