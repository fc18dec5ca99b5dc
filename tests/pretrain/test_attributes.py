"""What a wrong guess of an attribute costs."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caspr_spark.pretrain import attributes

WIDTH, NUM_IDS = 8, 50


@pytest.mark.parametrize("num_events", [0, 3, 300])
@pytest.mark.parametrize("cached_logits", [1, 7 * NUM_IDS, attributes.CACHED_LOGITS])
def test_the_loss_of_some_events_at_a_time_is_that_of_all_at_once(
    num_events: int, cached_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attributes, "CACHED_LOGITS", cached_logits)
    torch.manual_seed(1)
    head, read_MX = nn.Linear(WIDTH, NUM_IDS), torch.randn(num_events, WIDTH, requires_grad=True)
    ids_M = torch.randint(0, NUM_IDS, (num_events,))
    ids_M[: num_events // 3] = 0  # without a value

    def with_gradients(loss: Tensor) -> list[Tensor]:
        return [loss.detach(), *torch.autograd.grad(3 * loss, [read_MX, head.weight, head.bias])]

    expected = functional.cross_entropy(head(read_MX), ids_M, ignore_index=0, reduction="sum")
    found = attributes.cross_entropy(head, read_MX, ids_M)
    for ours, plain in zip(with_gradients(found), with_gradients(expected), strict=True):
        torch.testing.assert_close(ours, plain)
