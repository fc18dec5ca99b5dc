"""Masks and losses against slow oracles in plain Python, and which objectives go with which encoder."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from caspr_spark.manifest import Scaling
from caspr_spark.model.batch import Batch, batch_of
from caspr_spark.model.network import Network
from caspr_spark.model.splitmix import splitmix64
from caspr_spark.pretrain.masked import MaskedRecovery, masked_events, sees_events
from tests.pretrain.planted import AS_OF_US, Rows, layout_of, model_section, planted_rows, planted_scaling

LAYOUT = layout_of()
ROWS = planted_rows(60, seed=4)
SCALING = planted_scaling(ROWS, LAYOUT)
CHANCE: dict[str, Any] = {"seed": 7, "epoch": 2}
SETTINGS: dict[str, Any] = {"seed": 7, "mask_share": 0.3, "memory_dropout": 0.5}


def batch(rows: Rows = ROWS) -> Batch:
    return batch_of(rows, LAYOUT, AS_OF_US)


def test_splitmix64_gives_the_published_sequence() -> None:
    """Outputs of the reference implementation for the seeds 0 and 1234567."""
    found = splitmix64(torch.tensor([0, 1234567])).tolist()

    assert [number % 2**64 for number in found] == [0xE220A8397B1DCDAF, 6457827717110365317]


def test_a_share_of_the_real_events_is_masked_and_one_always_stays() -> None:
    rows = {name: values[:6] for name, values in ROWS.items()} | {"num_events": np.array([1, 2, 3, 5, 10, 15])}

    counted = {
        share: masked_events(batch(rows), mask_share=share, **CHANCE).sum(dim=1).tolist() for share in (0.0, 0.3, 1.0)
    }

    assert counted == {0.0: [0, 1, 1, 1, 1, 1], 0.3: [0, 1, 1, 2, 3, 5], 1.0: [0, 1, 2, 4, 9, 14]}


def test_padding_is_never_masked() -> None:
    one = batch()

    assert not (masked_events(one, mask_share=0.9, **CHANCE) & ~one.is_real_BT).any()


def test_a_mask_belongs_to_the_customer_and_not_to_the_batch() -> None:
    whole = masked_events(batch(), mask_share=0.3, **CHANCE)
    sees = sees_events(batch(), memory_dropout=0.5, **CHANCE)
    for row in range(60):
        alone = batch({name: values[row : row + 1] for name, values in ROWS.items()})
        mask = masked_events(alone, mask_share=0.3, **CHANCE)
        assert torch.equal(mask[0], whole[row, : mask.shape[1]])
        assert sees_events(alone, memory_dropout=0.5, **CHANCE).item() == sees[row].item()


def test_masks_change_with_seed_and_epoch_and_are_spread_evenly() -> None:
    long = {name: np.repeat(values[:1], 4000, axis=0) for name, values in ROWS.items()}
    long |= {"num_events": np.full(4000, 10), "customer_key": np.arange(4000)}
    masks = [
        masked_events(batch(long), mask_share=0.3, seed=seed, epoch=epoch) for seed, epoch in [(7, 2), (7, 3), (8, 2)]
    ]

    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert all(abs(mask.float().mean(dim=0) - 0.3).max() < 0.03 for mask in masks)  # 4 standard errors
    share = sees_events(batch(long), memory_dropout=0.3, **CHANCE).float().mean().item()
    assert abs(share - 0.7) < 0.03


def slow_loss(network: Network, one: Batch, is_masked_BT: torch.Tensor, sees_B: torch.Tensor) -> dict[str, float]:
    """Attribute -> mean loss / constant loss, event by event."""
    decoded = iter(network(one, is_masked_BT, sees_B).detach().double())
    losses: dict[str, list[float]] = {name: [] for name in ("shop", "colour", "labels", "amount", "refund")}
    heads = network.heads.double()
    assert heads.numerical is not None
    for customer, event in is_masked_BT.nonzero().tolist():
        guess = next(decoded)
        for position, name in enumerate(("shop", "colour")):
            logits = heads.categorical[position](guess).tolist()
            if target := one.categorical_BTC[customer, event, position].item():
                losses[name].append(math.log(sum(math.exp(logit) for logit in logits)) - logits[target])
        members = set(one.sets_BTS[customer, event].tolist()) - {0}
        if members:
            chances = [1 / (1 + math.exp(-logit)) for logit in heads.sets[0](guess).tolist()]
            cost = [-math.log(p if value in members else 1 - p) for value, p in enumerate(chances) if value > 0]
            losses["labels"].append(sum(cost))
        for position, name in enumerate(("amount", "refund")):
            raw = one.numerical_BTN[customer, event, position].item()
            if not math.isnan(raw):
                scaled = math.copysign(math.log1p(abs(raw)), raw) - (SCALING[name].mean or 0)
                target = max(-5.0, min(5.0, scaled / (SCALING[name].standard_deviation or 0)))
                losses[name].append((heads.numerical(guess)[position].item() - target) ** 2)
    heads.float()
    return {name: float(np.mean(values)) / SCALING[name].constant_loss for name, values in losses.items()}


def test_losses_are_those_of_masked_events_that_have_the_attribute() -> None:
    torch.manual_seed(2)
    network, one = Network(model_section(), LAYOUT, SCALING).eval(), batch()
    is_masked_BT, sees_B = masked_events(one, mask_share=0.3, **CHANCE), torch.ones(60, dtype=torch.bool)
    objective = MaskedRecovery(LAYOUT, SCALING, **SETTINGS)
    drawn = (is_masked_BT, sees_B)

    sums_A, counts_A = objective.sums(network, one, drawn), objective.counts(one, drawn)

    expected = slow_loss(network, one, is_masked_BT, sees_B)
    assert objective.by_name(sums_A.detach(), counts_A) == pytest.approx(expected, rel=1e-5)
    loss = (objective.weights(counts_A) * sums_A).sum().item()
    assert loss == pytest.approx(np.mean(list(expected.values())), rel=1e-5)


def test_sums_and_counts_of_two_halves_add_up_to_those_of_the_whole() -> None:
    torch.manual_seed(2)
    network, objective = Network(model_section(), LAYOUT, SCALING).eval(), MaskedRecovery(LAYOUT, SCALING, **SETTINGS)

    def sums(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        one = batch(rows)
        drawn = masked_events(one, mask_share=0.3, **CHANCE), sees_events(one, memory_dropout=0.5, **CHANCE)
        return objective.sums(network, one, drawn), objective.counts(one, drawn)

    parts = [sums({name: values[chosen] for name, values in ROWS.items()}) for chosen in (slice(0, 9), slice(9, 60))]
    whole = sums(ROWS)

    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0], rtol=1e-5, atol=1e-4)
    assert torch.equal(parts[0][1] + parts[1][1], whole[1])


def test_an_attribute_without_variation_or_without_values_has_no_weight() -> None:
    """`shop` is always the same, `refund` does not vary, `colour` was not seen: two count, one half each."""
    flat = Scaling(count=5, mean=None, standard_deviation=None, constant_loss=0.0)
    still = Scaling(count=5, mean=1.0, standard_deviation=0.0, constant_loss=1.0)
    two = Scaling(count=5, mean=None, standard_deviation=None, constant_loss=2.0)
    objective = MaskedRecovery(LAYOUT, SCALING | {"shop": flat, "refund": still, "labels": two}, **SETTINGS)

    weights = objective.weights(torch.tensor([10.0, 0.0, 4.0, 5.0, 6.0], dtype=torch.float64)).tolist()

    assert weights == pytest.approx([0, 0, 1 / (2 * 4 * 2), 1 / (2 * 5), 0])


@pytest.mark.parametrize("name", ["future", "contrastive", "next_event"])
def test_an_encoder_that_sees_later_events_is_refused_but_for_masked_recovery(name: str) -> None:
    objectives = {"masked": 0.0, "future": 0.0} | {name: 0.5}

    with pytest.raises(ValidationError, match=f"'objectives.{name}' needs an encoder that looks back only"):
        model_section(objectives=objectives, encoder="caspr")
    assert dict(model_section(objectives=objectives, encoder="gru").objectives)[name] == 0.5


def test_one_objective_needs_a_weight_and_models_of_before_have_none_for_the_newer_ones() -> None:
    with pytest.raises(
        ValidationError, match="give one of 'future', 'masked', 'contrastive' and 'next_event' a weight"
    ):
        model_section(objectives={"masked": 0.0, "future": 0.0, "contrastive": 0.0, "next_event": 0.0})
    before = model_section(objectives={"masked": 0.0, "future": 1.0}, encoder="gru")
    assert dict(before.objectives) == {"masked": 0.0, "future": 1.0, "contrastive": 0.0, "next_event": 0.0}
