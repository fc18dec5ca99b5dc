"""Attention that forgets is the same by our own C and by torch."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.model import kernels
from caspr_spark.model.batch import Batch
from caspr_spark.model.forgetting import HEADS, Forgetting
from caspr_spark.model.packing import Packing

B, H = 5, 3
DAY = 86_400_000_000
START = 19_000 * DAY
SLOPES = torch.tensor([0.05, 0.6, 1.3])


def customers(num_events: int, *, days: int = 90) -> Batch:
    """Histories of 1 to `num_events` events, some of the same time."""
    torch.manual_seed(1)
    num_events_B = torch.linspace(1, num_events, B).long()
    is_real_BT = torch.arange(num_events) < num_events_B[:, None]
    times_BT = (START + torch.randint(days, (B, num_events)).sort(dim=1).values * DAY) * is_real_BT
    others = {field.name: torch.zeros(B) for field in fields(Batch)}
    return Batch(**others | {"num_events_B": num_events_B, "event_times_BT": times_BT, "is_real_BT": is_real_BT})


def parts(batch: Batch, head: int, *, times: float = 1.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    num_events = int(batch.num_events_B.sum())
    query, key_value = torch.randn(num_events, H * head) * times, torch.randn(num_events, 2 * H * head) * times
    return query.requires_grad_(), key_value.requires_grad_()


def found(batch: Batch, query: Tensor, key_value: Tensor, *, of: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What the events get, and the gradients of `of`."""
    mixed = Forgetting(Packing(batch), SLOPES).attention(query, key_value)
    gradient = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(3)) if of is None else of
    return mixed.detach(), *torch.autograd.grad(mixed, (query, key_value), gradient)


@pytest.fixture(autouse=True)
def _is_compiled() -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("num_events", [1, 3, 16, 31, 33, 70, 200])
@pytest.mark.parametrize("days", [1, 90, 900])
def test_outputs_and_gradients_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch, head: int, num_events: int, days: int
) -> None:
    batch = customers(num_events, days=days)
    query, key_value = parts(batch, head)
    ours = found(batch, query, key_value)
    monkeypatch.setattr(kernels, "are_there", lambda: False)
    for one, other in zip(ours, found(batch, query, key_value), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_an_event_sees_itself_and_strictly_earlier_times_alone(
    monkeypatch: pytest.MonkeyPatch, is_compiled: bool
) -> None:
    if not is_compiled:
        monkeypatch.setattr(kernels, "are_there", lambda: False)
    batch = customers(100)
    query, key_value = parts(batch, 16)
    packing, customer, event = Packing(batch), B - 1, 60
    of_one = torch.zeros(*batch.event_times_BT.shape, query.shape[1])
    of_one[customer, event] = 1.0
    _, _, of_key_value = found(batch, query, key_value, of=packing.pack(of_one))
    times_T = batch.event_times_BT[customer]
    sees_T = times_T < times_T[event]
    sees_T[event] = True
    has_gradient_BT = (packing.unpack(of_key_value) != 0).any(dim=-1)
    assert torch.equal(has_gradient_BT[customer], sees_T)
    assert not has_gradient_BT[:customer].any()


def test_a_score_falls_by_the_slope_times_the_logarithm_of_the_days() -> None:
    batch = customers(2)
    times_BT = torch.tensor([[START, START + day * DAY] for day in (1, 7, 100, 400, 2000)])
    batch = Batch(
        **vars(batch)
        | {
            "num_events_B": torch.full((B,), 2),
            "event_times_BT": times_BT,
            "is_real_BT": torch.ones(B, 2, dtype=torch.bool),
        }
    )
    query, values = torch.zeros(2 * B, H * 8), torch.tensor([1.0, 0.0]).repeat(B)[:, None].expand(-1, H * 8)
    mixed = Forgetting(Packing(batch), SLOPES).attention(query, torch.cat([query, values], dim=-1))
    log_days_B1 = torch.tensor([1.0, 7.0, 100.0, 400.0, 400.0]).log1p()[:, None]  # the longest gap is 400 days
    torch.testing.assert_close(mixed[1::2, ::8], functional.sigmoid(-SLOPES * log_days_B1))


def test_scores_beyond_what_an_exponential_can_hold_stay_finite() -> None:
    batch = customers(40)
    query, key_value = parts(batch, 8, times=1e4)
    assert all(part.isfinite().all() for part in found(batch, query, key_value))


def test_what_does_not_lie_side_by_side_in_memory_is_read_right() -> None:
    batch = customers(20)
    query, key_value = (part.detach() for part in parts(batch, 8))
    scattered = (part.transpose(0, 1).contiguous().transpose(0, 1) for part in (query, key_value))
    forgetting = Forgetting(Packing(batch), SLOPES)
    assert torch.equal(forgetting.attention(*scattered), forgetting.attention(query, key_value))
