"""Events without their padding, and back."""

import pytest
import torch

from caspr_spark.model.batch import Batch, batch_of
from caspr_spark.model.causal import CausalEncoder
from caspr_spark.model.network import Network
from caspr_spark.model.packing import Packing
from tests.pretrain.planted import AS_OF_US, FUTURE, layout_of, model_section, planted_rows, planted_scaling

LAYOUT = layout_of()
ROWS = planted_rows(20, seed=3)


def batch() -> Batch:
    return batch_of(ROWS, LAYOUT, AS_OF_US)


def test_there_and_back_leaves_zeros_where_padded() -> None:
    one = batch()
    packing = Packing(one)
    numbers_BTX = torch.randn(*one.is_real_BT.shape, 3)
    packed_LX = packing.pack(numbers_BTX)
    assert packed_LX.shape == (int(one.num_events_B.sum()), 3)
    assert torch.equal(packing.unpack(packed_LX), numbers_BTX * one.is_real_BT[:, :, None])


def test_a_customer_starts_behind_the_one_before() -> None:
    one = batch()
    packing = Packing(one)
    customer_L = packing.pack(torch.arange(len(one.num_events_B))[:, None].expand_as(one.is_real_BT))
    assert torch.equal(customer_L[packing.starts], torch.arange(len(one.num_events_B)))
    assert torch.equal(customer_L[packing.starts[1:] - 1], torch.arange(len(one.num_events_B) - 1))


def test_histories_of_one_length_are_not_copied() -> None:
    rows = {name: values[:1] for name, values in ROWS.items()}
    one = batch_of(rows, LAYOUT, AS_OF_US)
    numbers_BTX = torch.randn(*one.is_real_BT.shape, 3)
    assert Packing(one).pack(numbers_BTX).data_ptr() == numbers_BTX.data_ptr()


@pytest.mark.parametrize("encoder", ["transformer", "gru", "none"])
def test_vectors_and_gradients_are_those_of_padded_events(monkeypatch: pytest.MonkeyPatch, encoder: str) -> None:
    torch.manual_seed(3)
    section = model_section(**(FUTURE | {"encoder": encoder}))
    network = Network(section, LAYOUT, planted_scaling(ROWS, LAYOUT)).eval()
    assert isinstance(network.encoder, CausalEncoder)
    torch.nn.init.ones_(network.encoder.gate_D)

    def found() -> list[torch.Tensor]:
        vectors_BE = network.encoder(batch()).embedding_BE
        weights = list(network.encoder.parameters())
        gradients = torch.autograd.grad(vectors_BE.square().sum(), weights, allow_unused=True)
        return [vectors_BE.detach(), *(gradient for gradient in gradients if gradient is not None)]

    packed = found()
    with monkeypatch.context() as patched:
        patched.setattr(torch.compiler, "is_exporting", lambda: True)  # all places, and torch's own operators
        padded = found()
    for one, other in zip(packed, padded, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
