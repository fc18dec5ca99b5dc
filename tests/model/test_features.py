"""Event vectors: values by hand, and nothing of a masked event."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from caspr_spark.manifest import CategoricalAttribute, Layout, Scaling, SetAttribute
from caspr_spark.model.batch import Batch, batch_of, known_columns
from caspr_spark.model.features import EventVectors, Scale, embedding_dimension, gap_days
from caspr_spark.model.network import Network
from tests.pretrain.planted import (
    AMOUNT,
    AS_OF_US,
    REFUND,
    layout_of,
    model_section,
    planted_rows,
    planted_scaling,
    times_of,
)

ROWS = planted_rows(12, seed=3)
LAYOUT = layout_of()
SCALING = planted_scaling(ROWS, LAYOUT)


def batch() -> Batch:
    return batch_of(ROWS, LAYOUT, AS_OF_US)


def test_ids_beyond_a_models_own_become_unknown_to_it() -> None:
    """Attributes of 4 and 3 ids, a set of up to 2 of 5 ids, two events; the profile's attribute has 9 ids."""
    model = Layout(
        max_events=2,
        categorical=(CategoricalAttribute(name="a", num_ids=4), CategoricalAttribute(name="b", num_ids=3)),
        sets=(SetAttribute(name="c", num_ids=5, max_values=2),),
        numerical=(),
        profile_categorical=(CategoricalAttribute(name="d", num_ids=9),),
        profile_numerical=(),
    )
    columns = {
        "num_events": np.array([2]),
        "categorical": np.array([[3, 3, 4, 2]]),
        "sets": np.array([[4, 5, 0, 1]]),
        "profile_categorical": np.array([[8]]),
    }

    known = known_columns(columns, model)

    assert {name: values.tolist() for name, values in known.items()} == {
        "num_events": [2],
        "categorical": [[3, 1, 1, 2]],
        "sets": [[4, 1, 0, 1]],
        "profile_categorical": [[8]],
    }


def masked(one: Batch, position: int) -> Tensor:
    """Event `position` of every customer, where it is real."""
    is_masked_BT = torch.zeros_like(one.is_real_BT)
    is_masked_BT[:, position] = True
    return is_masked_BT & one.is_real_BT


def changed_where(one: Batch, is_masked_BT: Tensor) -> Batch:
    """The same customers with other values in the masked events: other ids, absent ones, sets, numbers and times."""
    mask_BT1 = is_masked_BT[:, :, None]
    return replace(
        one,
        categorical_BTC=torch.where(mask_BT1, torch.where(one.categorical_BTC == 0, 3, 0), one.categorical_BTC),
        sets_BTS=torch.where(mask_BT1, torch.tensor([7, 0, 0]), one.sets_BTS),
        numerical_BTN=torch.where(mask_BT1, torch.tensor([float("nan"), 5.0]), one.numerical_BTN),
        event_times_BT=torch.where(is_masked_BT, one.event_times_BT + 1_000_000, one.event_times_BT),
    )


@pytest.mark.parametrize(("num_ids", "dimension"), [(3, 2), (9, 3), (12, 3), (13, 4), (100, 10)])
def test_embeddings_have_the_square_root_of_the_number_of_ids(num_ids: int, dimension: int) -> None:
    assert embedding_dimension(num_ids) == dimension


def test_numericals_are_logged_standardised_and_cut_and_absent_ones_are_zero() -> None:
    scaling = {
        AMOUNT: SCALING[AMOUNT].model_copy(update={"mean": 1.0, "standard_deviation": 0.5}),
        REFUND: SCALING[REFUND].model_copy(update={"mean": 0.0, "standard_deviation": None}),
    }

    scaled, is_present = Scale((AMOUNT, REFUND), scaling)(
        torch.tensor([[math.e - 1, float("nan")], [1e30, -(math.e**2) + 1], [float("inf"), 0.0]])
    )

    torch.testing.assert_close(scaled, torch.tensor([[0.0, 0.0], [5.0, -2.0], [5.0, 0.0]]))
    assert is_present.tolist() == [[True, False], [True, True], [True, True]]


def test_gaps_are_counted_from_the_last_event_that_is_not_masked() -> None:
    """Events 10, 6, 5 and 1 days before as_of; the third is masked; one place is padding."""
    rows = {name: values[:1] for name, values in planted_rows(1, max_events=5).items()}
    rows |= {"num_events": np.array([4]), "event_times": np.array([[*times_of([10, 6, 5, 1]), 0]])}
    one = batch_of(rows, layout_of(5), AS_OF_US)
    is_masked_BT = torch.tensor([[False, False, True, False]])

    since_BT, until_BT = gap_days(one, is_masked_BT)

    assert since_BT[0].tolist() == [0, 4, 1, 5]  # the third's own is computed, and hidden later
    assert until_BT[0].tolist() == [10, 6, 5, 1]
    assert gap_days(one, None)[0][0].tolist() == [0, 4, 1, 4]


def test_a_masked_event_is_its_position_and_nothing_else() -> None:
    torch.manual_seed(0)
    vectors, one = EventVectors(LAYOUT, SCALING), batch()

    events_BTF = vectors(one, masked(one, 1))

    is_there = one.num_events_B > 1
    assert events_BTF[is_there, 1].unique(dim=0).shape[0] == 1
    position, rest = vectors.num_waves * 2 + 1, LAYOUT.numerical
    assert (events_BTF[is_there, 1, position : position + 2 * len(rest) + 2] == 0).all()
    elsewhere = vectors(one, masked(one, 0))[:, 0]
    torch.testing.assert_close(elsewhere[:, position:], events_BTF[is_there, 1, position:][:1].expand(12, -1))


@pytest.mark.parametrize("position", [0, 1, 5])
def test_nothing_of_a_masked_event_reaches_any_event_vector(position: int) -> None:
    """Neither its values nor which of them are absent, nor its time through the gap of the next."""
    torch.manual_seed(0)
    vectors, one = EventVectors(LAYOUT, SCALING), batch()
    is_masked_BT = masked(one, position)
    other = changed_where(one, is_masked_BT)

    assert torch.equal(vectors(one, is_masked_BT), vectors(other, is_masked_BT))
    assert not torch.equal(vectors(one), vectors(other))


@pytest.mark.parametrize("sees", [True, False])
def test_nothing_of_masked_events_reaches_their_reconstruction(sees: bool) -> None:
    torch.manual_seed(0)
    network, one = Network(model_section(), LAYOUT, SCALING).eval(), batch()
    is_masked_BT = masked(one, 1) | masked(one, 4)
    other, sees_events_B = changed_where(one, is_masked_BT), torch.full((12,), sees)

    assert torch.equal(network(one, is_masked_BT, sees_events_B), network(other, is_masked_BT, sees_events_B))


def test_no_gradient_flows_from_a_masked_events_numbers_to_its_reconstruction() -> None:
    torch.manual_seed(0)
    network, one = Network(model_section(), LAYOUT, SCALING).eval(), batch()
    numerical_BTN = one.numerical_BTN.clone().requires_grad_()
    is_masked_BT = masked(one, 1)

    network(replace(one, numerical_BTN=numerical_BTN), is_masked_BT, torch.ones(12, dtype=torch.bool)).sum().backward()

    assert numerical_BTN.grad is not None
    assert (numerical_BTN.grad[is_masked_BT] == 0).all()
    assert (numerical_BTN.grad[one.is_real_BT & ~is_masked_BT] != 0).any()
    assert (numerical_BTN.grad[~one.is_real_BT] == 0).all()


def test_the_decoder_at_a_place_reads_only_the_events_before() -> None:
    torch.manual_seed(0)
    network, one = Network(model_section(decoder_layers=2), LAYOUT, SCALING).eval(), batch()
    encoded = network.encoder(one)
    events_BTF = encoded.events_BTF.detach().requires_grad_()
    fixed = encoded._replace(events_BTF=events_BTF)
    decoded_BTD = network.decoder(one, fixed, torch.ones(12, dtype=torch.bool))

    for place in (0, 3, 14):
        (gradient_BTF,) = torch.autograd.grad(decoded_BTD[:, place, 0].sum(), events_BTF, retain_graph=True)
        assert (gradient_BTF[:, place:] == 0).all()
        assert place == 0 or (gradient_BTF[:, place - 1] != 0).any()


def test_a_decoder_that_sees_no_events_learns_of_them_by_the_customer_vector_alone() -> None:
    torch.manual_seed(0)
    network, one = Network(model_section(), LAYOUT, SCALING).eval(), batch()
    encoded = network.encoder(one)
    other = encoded._replace(memory_BTD=encoded.memory_BTD + 1)
    nobody, everybody = torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)

    assert torch.equal(network.decoder(one, encoded, nobody), network.decoder(one, other, nobody))
    assert not torch.equal(network.decoder(one, encoded, everybody), network.decoder(one, other, everybody))


def test_padding_embeds_to_zero_and_a_set_is_its_sum_over_root_n() -> None:
    torch.manual_seed(0)
    vectors, one = EventVectors(LAYOUT, SCALING), batch()
    table_VF = vectors.state_dict()["set_embeddings.0.weight"]

    events_BTF = vectors(one)

    torch.testing.assert_close(
        events_BTF[0, 0, -3:], (table_VF[one.sets_BTS[0, 0, 0]] + table_VF[one.sets_BTS[0, 0, 1]]) / 2**0.5
    )
    is_absent_BT = (one.categorical_BTC[:, :, 1] == 0) & one.is_real_BT
    assert is_absent_BT.any()
    assert (events_BTF[is_absent_BT][:, -5:-3] == 0).all()  # colour has two numbers, the set the last three


def test_amounts_are_cut_where_scaled_ones_are() -> None:
    """log1p of mean 2 and deviation 1: from -expm1(3) to expm1(7); infinite ones too, absent ones are 0."""
    scale = Scale(("amount",), {"amount": Scaling(count=9, mean=2.0, standard_deviation=1.0, constant_loss=1.0)})
    found = scale.cut(torch.tensor([[-50.0], [-10.0], [0.5], [2000.0], [math.inf], [math.nan]]))[:, 0].tolist()
    assert found == pytest.approx([-math.expm1(3), -10.0, 0.5, math.expm1(7), math.expm1(7), 0.0])
