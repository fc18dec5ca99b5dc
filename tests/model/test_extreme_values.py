"""Whatever numbers reach the model, and however few events: a vector is finite."""

import math

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caspr_spark.config import ModelSection
from caspr_spark.model.network import Network
from caspr_spark.model.scoring import encode
from tests.pretrain.planted import AS_OF_US, FUTURE, layout_of, model_section, planted_rows, planted_scaling

MAX_EVENTS = 3
LAYOUT = layout_of(MAX_EVENTS)
ROWS = planted_rows(2, max_events=MAX_EVENTS, seed=4) | {"num_events": np.array([MAX_EVENTS, 1], dtype=np.int32)}
SCALING = planted_scaling(planted_rows(50, max_events=MAX_EVENTS, seed=4), LAYOUT)
NUMBER = st.one_of(st.floats(), st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.8e308, -1e300]))
NUMBERS = st.lists(NUMBER, min_size=2 * MAX_EVENTS, max_size=2 * MAX_EVENTS)


def network(section: ModelSection) -> Network:
    torch.manual_seed(1)
    return Network(section, LAYOUT, SCALING)


ENCODERS = [network(model_section(pooling=pooling)).encoder for pooling in ("attention", "mean", "last")]
ENCODERS += [network(model_section(**FUTURE | {"pooling": pooling})).encoder for pooling in ("decayed", "attention")]


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.sampled_from(ENCODERS))
@example([math.inf, -math.inf, math.nan, 1e308, -1e308, -0.0], ENCODERS[0])
@example([math.inf, -math.inf, math.nan, 1e308, -1e308, -0.0], ENCODERS[3])
def test_f31_no_number_makes_a_vector_that_is_not_finite(numbers: list[float], encoder: torch.nn.Module) -> None:
    with np.errstate(over="ignore"):
        as_stored = np.array([numbers, numbers]).astype(np.float32)  # beyond its range: infinite, as Spark casts it
    vectors = encode(encoder, ROWS | {"numerical": as_stored, "profile_numerical": as_stored[:, :1]}, LAYOUT, AS_OF_US)
    assert np.isfinite(vectors).all()
    assert np.linalg.norm(vectors, axis=1).max() < 10_000  # what publish.gate takes


def test_f31_minus_zero_is_zero() -> None:
    zero, minus_zero = (
        encode(ENCODERS[0], ROWS | {"numerical": np.full((2, 6), value, dtype=np.float32)}, LAYOUT, AS_OF_US)
        for value in (0.0, -0.0)
    )
    np.testing.assert_array_equal(zero, minus_zero)


def test_f39_one_event_is_enough_for_a_vector_and_padding_has_no_part_in_it() -> None:
    one_event = {name: values[1:] for name, values in ROWS.items()}
    other_padding = one_event | {"numerical": np.concatenate([one_event["numerical"][:, :2], np.ones((1, 4))], axis=1)}
    for encoder in ENCODERS:
        vector = encode(encoder, one_event, LAYOUT, AS_OF_US)
        assert np.isfinite(vector).all()
        np.testing.assert_array_equal(vector, encode(encoder, other_padding, LAYOUT, AS_OF_US))
