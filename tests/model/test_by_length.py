"""Customers go through the network in groups of similar length."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from caspr_spark.errors import UnsafeError
from caspr_spark.model.batch import Batch, batch_of, by_length, even_groups, rows_of
from tests.pretrain.planted import AS_OF_US, layout_of, planted_rows


def lengths(num_events: list[int], **limits: int | None) -> list[list[int]]:
    num_events_B = np.array(num_events)
    return [num_events_B[group].tolist() for group in by_length(num_events_B, **limits)]  # type: ignore[arg-type]


def test_groups_hold_no_more_events_than_they_may_padding_included() -> None:
    found = lengths([7, 1, 2, 40, 3, 8, 2], most_customers=3, most_events=16)
    assert found == [[1, 2, 2], [3, 7], [8], [40]]


def test_without_a_limit_of_events_groups_are_of_one_size() -> None:
    assert lengths([5, 1, 300, 2, 4], most_customers=2) == [[1, 2], [4, 5], [300]]


@pytest.mark.parametrize("most_events", [None, 1, 50, 1000])
def test_everybody_is_in_one_group(most_events: int | None) -> None:
    num_events_B = np.random.default_rng(3).integers(1, 60, 100)
    groups = list(by_length(num_events_B, most_customers=8, most_events=most_events))
    assert sorted(np.concatenate(groups).tolist()) == list(range(100))


def test_nobody_is_no_group() -> None:
    assert lengths([], most_customers=2, most_events=10) == []


@pytest.mark.parametrize(("num_customers", "longest"), [(1, 9), (2, 9), (16, 256), (300, 40)])
def test_even_groups_are_as_many_as_need_be_and_of_similar_size(num_customers: int, longest: int) -> None:
    num_events_B = np.random.default_rng(4).integers(1, longest + 1, num_customers)
    limits = {"most_customers": 32, "most_events": 1024}
    plain = list(by_length(num_events_B, **limits))
    groups = even_groups(num_events_B, **limits, least_groups=2)
    sizes = [len(group) * num_events_B[group].max() for group in groups]

    assert sorted(np.concatenate(groups).tolist()) == list(range(num_customers))
    assert len(groups) == min(num_customers, max(2, len(plain)))
    assert max(sizes) <= max(len(group) * num_events_B[group].max() for group in plain)
    assert num_customers < 16 or max(sizes) < 1.5 * sum(sizes) / len(sizes)


def test_chosen_customers_have_no_more_places_than_the_longest_of_them_has_events() -> None:
    layout, rows = layout_of(), planted_rows(20, seed=3)
    order = np.argsort(rows["num_events"], kind="stable")
    for chosen in (order[:3], order[-3:], order[::-1], order[:0]):
        found = rows_of(rows, layout, chosen)
        longest = max(1, rows["num_events"][chosen].max(initial=1))
        assert found["event_times"].shape == (len(chosen), longest)
        if len(chosen):
            whole = batch_of({name: values[chosen] for name, values in rows.items()}, layout, AS_OF_US)
            cut = batch_of(found, layout, AS_OF_US)
            for field in fields(Batch):
                one, other = getattr(whole, field.name), getattr(cut, field.name)
                assert torch.equal(one.nan_to_num(-7.0), other.nan_to_num(-7.0)), field.name


@pytest.mark.parametrize("name", ["categorical", "sets", "numerical"])
def test_a_column_of_another_width_is_refused_before_and_after(name: str) -> None:
    layout, rows = layout_of(), planted_rows(20, seed=3)
    wrong = rows | {name: rows[name].reshape(20, -1)[:, :-1]}
    with pytest.raises(UnsafeError, match=name):
        batch_of(rows_of(wrong, layout, np.arange(3)), layout, AS_OF_US)
