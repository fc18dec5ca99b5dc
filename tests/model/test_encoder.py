"""A customer's vector depends on that customer alone."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from caspr_spark.errors import UnsafeError
from caspr_spark.model.batch import batch_of
from caspr_spark.model.causal import CausalEncoder
from caspr_spark.model.network import Network
from caspr_spark.model.scoring import encode
from tests.pretrain.planted import AS_OF_US, FUTURE, Rows, layout_of, model_section, planted_rows, planted_scaling

T = 32
POOLINGS = ["attention", "mean", "last"]
MODELS: list[dict[str, Any]] = [
    *({"pooling": pooling} for pooling in POOLINGS),
    *(FUTURE | {"encoder": encoder} for encoder in ("transformer", "gru", "none")),
    *(FUTURE | {"pooling": pooling} for pooling in POOLINGS),
]


def name_of(model: dict[str, Any]) -> str:
    return f"{model.get('encoder', 'caspr')}-{model['pooling']}"


def network_of(rows: Rows, **changes: Any) -> Network:
    torch.manual_seed(5)
    layout = layout_of(T)
    network = Network(model_section(**changes), layout, planted_scaling(rows, layout)).eval()
    if isinstance(network.encoder, CausalEncoder):  # as if trained: what the mixer adds starts at nothing
        torch.nn.init.ones_(network.encoder.gate_D)
    return network


def vectors(network: Network, rows: Rows) -> NDArray[np.float32]:
    return encode(network.encoder, rows, layout_of(T), AS_OF_US)


def assert_same_direction(found: NDArray[Any], expected: NDArray[Any]) -> None:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert (lengths > 0).all()
    assert ((found * expected).sum(axis=1) / lengths).min() >= 1 - 1e-5
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """40 customers of 2 to 32 events; the longest has 32."""
    rows = planted_rows(40, max_events=T, seed=1)
    assert rows["num_events"].max() == T
    return rows


def short_ones(rows: Rows) -> Rows:
    return {name: values[rows["num_events"] <= 16] for name, values in rows.items()}


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_vectors_of_different_customers_differ(rows: Rows, model: dict[str, Any]) -> None:
    found = vectors(network_of(rows, **model), rows)

    assert found.shape == (40, model.get("embedding_size", 8))
    assert found.dtype == np.float32
    assert len(np.unique(found.round(4), axis=0)) == 40


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_what_stands_in_the_padding_does_not_matter(rows: Rows, model: dict[str, Any]) -> None:
    network = network_of(rows, **model)
    is_padding = np.arange(T) >= rows["num_events"][:, None]
    dirty = dict(rows)
    for name, rubbish in {"categorical": 4, "sets": 7, "numerical": 1e30, "event_times": AS_OF_US + 1}.items():
        values = rows[name].reshape(len(is_padding), T, -1).copy()
        values[is_padding] = rubbish
        dirty[name] = values.reshape(len(is_padding), -1)

    np.testing.assert_array_equal(vectors(network, dirty), vectors(network, rows))


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_how_much_padding_there_is_does_not_matter(rows: Rows, model: dict[str, Any]) -> None:
    network, long = network_of(rows, **model), short_ones(rows)
    short = dict(long)
    for name in ("categorical", "sets", "numerical", "event_times"):
        customers = len(long["num_events"])
        short[name] = long[name].reshape(customers, T, -1)[:, :16].reshape(customers, -1)

    np.testing.assert_array_equal(vectors(network, short), vectors(network, long))


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_f74_who_else_is_in_the_batch_does_not_matter(rows: Rows, model: dict[str, Any]) -> None:
    network = network_of(rows, **model)
    together = vectors(network, rows)
    alone = np.concatenate([vectors(network, {k: v[i : i + 1] for k, v in rows.items()}) for i in range(40)])
    order = np.random.default_rng(2).permutation(40)
    shuffled = vectors(network, {name: values[order] for name, values in rows.items()})

    assert_same_direction(alone, together)
    assert_same_direction(shuffled, together[order])


def test_f74_the_number_of_threads_does_not_matter(rows: Rows) -> None:
    network, threads = network_of(rows), torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(vectors(network, rows))
    finally:
        torch.set_num_threads(threads)

    assert_same_direction(found[1], found[0])


def test_scoring_and_training_take_the_same_path(rows: Rows) -> None:
    network = network_of(rows)

    with torch.inference_mode():
        trained = network.encoder(batch_of(rows, layout_of(T), AS_OF_US)).embedding_BE.numpy()

    assert_same_direction(vectors(network, rows), trained)


@pytest.mark.parametrize("model", [{}, FUTURE], ids=["caspr", "causal"])
def test_order_of_events_and_profile_reach_the_vector(rows: Rows, model: dict[str, Any]) -> None:
    network = network_of(rows, **model)
    plain = vectors(network, rows)
    other_profile = rows | {"profile_categorical": (rows["profile_categorical"] + 1) % 6}
    swapped = rows["categorical"].reshape(40, T, 2).copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]

    assert (np.abs(vectors(network, other_profile) - plain).max(axis=1) > 1e-6).all()
    assert np.abs(vectors(network, rows | {"categorical": swapped.reshape(40, -1)}) - plain).max() > 1e-6


def test_columns_may_be_flat_and_read_only_as_arrow_gives_them(rows: Rows) -> None:
    network, flat = network_of(rows), {name: values.reshape(-1) for name, values in rows.items()}
    for values in flat.values():
        values.flags.writeable = False

    np.testing.assert_array_equal(vectors(network, flat), vectors(network, rows))


def test_no_customer_gives_no_vector(rows: Rows) -> None:
    assert vectors(network_of(rows), {name: values[:0] for name, values in rows.items()}).shape == (0, 8)


def test_f58_an_event_at_as_of_is_refused(rows: Rows) -> None:
    times = rows["event_times"].copy()
    times[7, 0] = AS_OF_US

    with pytest.raises(UnsafeError, match="an event is not older than as_of"):
        vectors(network_of(rows), rows | {"event_times": times})


@pytest.mark.parametrize(
    ("column", "value"), [("categorical", 9), ("sets", 10), ("profile_categorical", 6), ("sets", -1)]
)
def test_f71_an_id_of_another_vocabulary_is_refused(rows: Rows, column: str, value: int) -> None:
    ids = rows[column].copy()
    ids[3, 0] = value

    with pytest.raises(UnsafeError, match="belong to another vocabulary"):
        vectors(network_of(rows), rows | {column: ids})


@pytest.mark.parametrize("num_events", [0, T + 1])
def test_an_impossible_number_of_events_is_refused(rows: Rows, num_events: int) -> None:
    counts = rows["num_events"].copy()
    counts[0] = num_events

    with pytest.raises(UnsafeError, match="num_events must be 1 to 32"):
        vectors(network_of(rows), rows | {"num_events": counts})


def test_a_missing_column_and_a_wrong_width_are_named(rows: Rows) -> None:
    network = network_of(rows)

    with pytest.raises(UnsafeError, match="needs the columns sets"):
        vectors(network, {name: values for name, values in rows.items() if name != "sets"})
    with pytest.raises(UnsafeError, match="column 'numerical': expected 64 values a customer, found 63"):
        vectors(network, rows | {"numerical": rows["numerical"][:, :-1]})
