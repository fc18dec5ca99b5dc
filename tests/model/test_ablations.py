"""What is taken out is gone, and what is not stands where it stood."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caspr_spark.manifest import CategoricalAttribute, Layout
from caspr_spark.model.ablations import evenly_spaced, newest, profiles_hidden, shuffled, untrained, without_source
from caspr_spark.model.checkpoint import Checkpoint
from caspr_spark.model.network import Network
from caspr_spark.registry import ModelRecord
from schemas.vocabulary import PADDING_ID, UNKNOWN_ID
from tests.pretrain.planted import AS_OF as TRAINED_AS_OF
from tests.pretrain.planted import layout_of, model_section, planted_rows, planted_scaling

SHOP, LETTERS, HOURS = 3, 4, 5
LAYOUT = Layout(
    max_events=4,
    categorical=(CategoricalAttribute(name="source", num_ids=6), CategoricalAttribute(name="hour", num_ids=9)),
    sets=(),
    numerical=("spend",),
    profile_categorical=(),
    profile_numerical=(),
)
AS_OF = 1000


def columns() -> dict[str, NDArray[Any]]:
    """Two customers with three and one events; the places behind are padding."""
    return {
        "customer_key": np.array([7, 8]),
        "num_events": np.array([3, 1]),
        "event_times": np.array([[100, 200, 900, 0], [600, 0, 0, 0]]),
        "categorical": np.array([[SHOP, 5, LETTERS, 6, SHOP, 7, 0, 0], [LETTERS, 5, 0, 0, 0, 0, 0, 0]]),
        "numerical": np.array([[1.0, 2.0, 3.0, 0.0], [4.0, 0.0, 0.0, 0.0]], dtype=np.float32),
    }


def spends(changed: dict[str, NDArray[Any]], customer: int) -> list[float]:
    values: list[float] = changed["numerical"].reshape(2, 4)[customer, : changed["num_events"][customer]].tolist()
    return values


def test_shuffled_deals_out_whole_events_over_the_same_times() -> None:
    orders = set()
    for seed in range(20):
        changed = shuffled(columns(), LAYOUT, seed=seed)
        assert changed["event_times"].tolist() == columns()["event_times"].tolist()
        sources = changed["categorical"].reshape(2, 4, 2)[0, :3, 0]
        pairs = dict(zip(spends(changed, 0), sources.tolist(), strict=True))
        assert pairs == {1.0: SHOP, 2.0: LETTERS, 3.0: SHOP}
        assert spends(changed, 1) == [4.0]
        orders.add(tuple(spends(changed, 0)))
    assert len(orders) > 2


def test_evenly_spaced_keeps_the_order_and_forgets_the_hour() -> None:
    changed = evenly_spaced(columns(), LAYOUT, as_of_us=AS_OF)
    gap = (900 + 400) // 4
    assert changed["event_times"][0, :3].tolist() == [AS_OF - 3 * gap, AS_OF - 2 * gap, AS_OF - gap]
    assert changed["event_times"][1, 0] == AS_OF - gap
    assert changed["categorical"][0, :3, 1].tolist() == [UNKNOWN_ID] * 3
    assert changed["categorical"][0, :3, 0].tolist() == [SHOP, LETTERS, SHOP]
    assert spends(changed, 0) == [1.0, 2.0, 3.0]


def test_newest_and_without_a_source_keep_the_others_in_order() -> None:
    two = newest(columns(), LAYOUT, num_events=2)
    assert (spends(two, 0), spends(two, 1)) == ([2.0, 3.0], [4.0])
    assert two["event_times"][0, :2].tolist() == [200, 900]
    shop = without_source(columns(), LAYOUT, source_id=LETTERS)
    assert (spends(shop, 0), spends(shop, 1)) == ([1.0, 3.0], [])
    assert shop["event_times"][0, :2].tolist() == [100, 900]
    assert shop["num_events"].tolist() == [2, 0]


def test_hidden_profiles_leave_the_events_as_they_are() -> None:
    rows = {**columns(), "profile_categorical": np.array([[3, 1], [4, 0]])}
    rows["profile_numerical"] = np.array([[40.0], [np.nan]], dtype=np.float32)
    hidden = profiles_hidden(rows)
    assert hidden["profile_categorical"].tolist() == [[PADDING_ID] * 2] * 2
    assert np.isnan(hidden["profile_numerical"]).tolist() == [[True], [True]]
    assert all(np.array_equal(hidden[name], values) for name, values in columns().items())
    assert rows["profile_categorical"].tolist() == [[3, 1], [4, 0]]
    assert set(profiles_hidden(columns())) == set(columns())


def test_an_untrained_network_has_other_weights_and_the_same_units() -> None:
    layout = layout_of()
    record = ModelRecord(
        section=model_section(),
        layout=layout,
        scaling=planted_scaling(planted_rows(10), layout),
        vocabulary_version="v",
        as_of=TRAINED_AS_OF,
        fingerprint="f",
        seed=1,
    )
    trained = Network(record.section, record.layout, record.scaling)
    for number, buffer in enumerate(trained.buffers()):
        buffer.copy_(torch.full_like(buffer, number + 1))  # what training fits
    checkpoint = Checkpoint("v1", record, trained.state_dict())
    state = torch.get_rng_state()
    network, again, other = (untrained(checkpoint, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    weights = [torch.cat([one.flatten() for one in each.parameters()]) for each in (network, again, other, trained)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    saved = {name for name, _ in trained.named_buffers()} & set(trained.state_dict())
    assert all(torch.equal(dict(network.named_buffers())[name], trained.state_dict()[name]) for name in saved)
