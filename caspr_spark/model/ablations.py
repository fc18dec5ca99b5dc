"""Sequences with something taken out of them: what a vector loses then tells what the encoder uses.

Columns are those of the sequence files, B customers with T places each, the oldest event first.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caspr_spark.manifest import Layout
from caspr_spark.model.batch import WIDTHS, Columns
from caspr_spark.model.checkpoint import Checkpoint
from caspr_spark.model.network import Network
from caspr_spark.model.scoring import network_of
from caspr_spark.model.values import CALENDAR, SOURCE
from schemas.vocabulary import PADDING_ID, UNKNOWN_ID

_EVENTS = ("categorical", "sets", "numerical")


def shuffled(columns: Columns, layout: Layout, *, seed: int) -> dict[str, NDArray[Any]]:
    """What happened is dealt out anew over a customer's times: order and gaps of the kinds of events are gone."""
    times_BT, num_events_B = _times(columns)
    random_BT = np.random.default_rng(seed).random(times_BT.shape)
    order_BT = np.argsort(np.where(_is_real(columns), random_BT, 2.0), axis=1, kind="stable")
    return {**_picked(columns, layout, order_BT), "event_times": times_BT, "num_events": num_events_B}


def evenly_spaced(columns: Columns, layout: Layout, *, as_of_us: int) -> dict[str, NDArray[Any]]:
    """Time is gone, order stays: everybody's events follow one another at the mean gap of all, up to `as_of_us`.

    The hour, weekday, day or month of an event becomes unknown.
    """
    times_BT, num_events_B = _times(columns)
    ages_B = as_of_us - times_BT[:, 0]
    gap_us = max(1, int(ages_B.sum() / max(1, num_events_B.sum())))
    rank_BT = num_events_B[:, None] - np.arange(times_BT.shape[1])
    spaced_BT = np.where(_is_real(columns), as_of_us - rank_BT * gap_us, times_BT)
    kept = {name: np.array(values) for name, values in columns.items()}
    positions = [place for place, attribute in enumerate(layout.categorical) if attribute.name in CALENDAR]
    if positions:
        categorical_BTC = kept["categorical"].reshape(*times_BT.shape, len(layout.categorical))
        categorical_BTC[:, :, positions] = UNKNOWN_ID
        kept["categorical"] = categorical_BTC
    return {**kept, "event_times": spaced_BT}


def newest(columns: Columns, layout: Layout, *, num_events: int) -> dict[str, NDArray[Any]]:
    """The newest so many events of each customer."""
    _, num_events_B = _times(columns)
    is_kept_BT = _is_real(columns) & (np.arange(_is_real(columns).shape[1]) >= num_events_B[:, None] - num_events)
    return kept_events(columns, layout, is_kept_BT)


def without_source(columns: Columns, layout: Layout, *, source_id: int) -> dict[str, NDArray[Any]]:
    """No event of one source. A customer who had no others has `num_events` 0, which no encoder takes."""
    position = [attribute.name for attribute in layout.categorical].index(SOURCE)
    shape = (*_is_real(columns).shape, len(layout.categorical))
    is_other_BT = np.asarray(columns["categorical"]).reshape(shape)[:, :, position] != source_id
    return kept_events(columns, layout, _is_real(columns) & is_other_BT)


def profiles_hidden(columns: Columns) -> dict[str, NDArray[Any]]:
    """Customers as those without any profile: ids 0 and NaN there. Their events stay."""
    hidden = {name: np.asarray(values) for name, values in columns.items()}
    for name, absent in (("profile_categorical", PADDING_ID), ("profile_numerical", np.nan)):
        if name in hidden:
            hidden[name] = np.full_like(hidden[name], absent)
    return hidden


def kept_events(columns: Columns, layout: Layout, is_kept_BT: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """These events alone, in their order."""
    times_BT, _ = _times(columns)
    order_BT = np.argsort(~is_kept_BT, axis=1, kind="stable")
    return {
        **_picked(columns, layout, order_BT),
        "event_times": np.take_along_axis(times_BT, order_BT, axis=1),
        "num_events": is_kept_BT.sum(axis=1),
    }


def untrained(checkpoint: Checkpoint, *, seed: int) -> Network:
    """The network as it was before training: weights are random, units and scales those of the checkpoint."""
    with torch.random.fork_rng():
        trained = network_of(checkpoint)
        torch.manual_seed(seed)
        network = Network(checkpoint.model.section, checkpoint.model.layout, checkpoint.model.scaling)
    for buffer, fitted in zip(network.buffers(), trained.buffers(), strict=True):
        buffer.copy_(fitted)
    return network.eval()


def _picked(columns: Columns, layout: Layout, order_BT: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """The columns with each customer's events in another order; times are not touched."""
    picked = {name: np.asarray(values) for name, values in columns.items()}
    for name in _EVENTS:
        if name in columns:
            events_BTX = picked[name].reshape(*order_BT.shape, WIDTHS[name](layout))
            picked[name] = np.take_along_axis(events_BTX, order_BT[:, :, None], axis=1)
    return picked


def _times(columns: Columns) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """times_BT and num_events_B."""
    num_events_B = np.asarray(columns["num_events"], dtype=np.int64).reshape(-1)
    return np.asarray(columns["event_times"], dtype=np.int64).reshape(len(num_events_B), -1), num_events_B


def _is_real(columns: Columns) -> NDArray[np.bool_]:
    times_BT, num_events_B = _times(columns)
    is_real_BT: NDArray[np.bool_] = np.arange(times_BT.shape[1]) < num_events_B[:, None]
    return is_real_BT
