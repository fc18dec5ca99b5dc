"""A batch of customers as tensors. Padding is wiped here, once, so that nothing behind can depend on what stood in it.

Letters of the shape suffixes in this package and in `pretrain`:

    B customers of a batch
    T events, oldest first, up to the longest history of the batch
    C categorical attributes of an event      N numerical attributes of an event
    S set ids of an event, all sets together  P, Q categorical and numerical attributes of a profile
    F numbers of an event vector              D width of the transformer      E numbers of a customer vector
    H attention heads                         K numbers a head                U things that can be attended to
    M masked events of all customers          V ids of one attribute          A attributes that are recovered
    L real events of all customers, one behind the other (`packing`)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caspr_spark.errors import UnsafeError
from caspr_spark.manifest import CategoricalAttribute, Layout
from schemas.vocabulary import UNKNOWN_ID

Columns = Mapping[str, NDArray[Any]]
CACHED_NUMBERS = 2**18
"""Of a chunk: events times the encoder's width."""

WIDTHS: dict[str, Callable[[Layout], int]] = {
    "categorical": lambda layout: len(layout.categorical),
    "sets": lambda layout: layout.set_width,
    "numerical": lambda layout: len(layout.numerical),
    "profile_categorical": lambda layout: len(layout.profile_categorical),
    "profile_numerical": lambda layout: len(layout.profile_numerical),
}
"""Column of the sequence files -> numbers an event (or a profile) takes in it; a column of width 0 is not written."""
OF_EVENTS = ("categorical", "sets", "numerical")
"""Those that are of events."""


@dataclass(frozen=True)
class Batch:
    """Customers, trimmed to the longest of them. Padded places hold id 0, NaN and time 0, whatever stood there."""

    customer_key_B: Tensor
    """int64: hash of the customer, for choices that depend on nobody else."""
    num_events_B: Tensor
    """int64: real events, 0 < n <= T."""
    as_of_B: Tensor
    """int64, microseconds since 1970-01-01 UTC; every event is older."""
    event_times_BT: Tensor
    """int64, microseconds since 1970-01-01 UTC."""
    categorical_BTC: Tensor
    sets_BTS: Tensor
    numerical_BTN: Tensor
    """float32, unscaled; NaN where absent."""
    profile_categorical_BP: Tensor
    profile_numerical_BQ: Tensor
    """float32, unscaled; NaN where absent."""
    is_real_BT: Tensor
    """True for events, False for padding."""

    @property
    def device(self) -> torch.device:
        return self.event_times_BT.device

    def visible(self, is_masked_BT: Tensor | None) -> Tensor:
        """is_visible_BT: events that are not masked; None: none is."""
        return self.is_real_BT if is_masked_BT is None else self.is_real_BT & ~is_masked_BT

    def to(self, device: torch.device) -> "Batch":
        """The same on `device`; to a GPU it is under way when this returns."""
        if device == self.device:
            return self
        tensors: dict[str, Tensor] = {field.name: getattr(self, field.name) for field in fields(self)}
        if device.type == "cuda":
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return replace(
            self, **{name: tensor.to(device, non_blocking=device.type == "cuda") for name, tensor in tensors.items()}
        )


def columns_of(layout: Layout) -> list[str]:
    """The columns of the sequence files that the model needs; names and raw customer ids stay where they are."""
    widths = [name for name, width in WIDTHS.items() if width(layout)]
    return ["customer_key", "num_events", "event_times", *widths]


def batch_of(columns: Columns, layout: Layout, as_of_us: int | NDArray[np.int64]) -> Batch:
    """The columns of the sequence files, one row a customer, as a batch.

    `event_times` is [B, T'] for any T' that holds the longest history; the other event columns are [B, T' * width],
    flat or not. `as_of_us`: microseconds since 1970-01-01 UTC, one for all or one a customer.
    Raises UnsafeError where shapes, ids or times contradict the layout: the rows belong to something else.
    """
    if missing := [name for name in columns_of(layout) if name not in columns]:
        raise UnsafeError(f"sequences: the layout needs the columns {', '.join(missing)}; rebuild the sequences")
    num_events_B = np.asarray(columns["num_events"], dtype=np.int64).reshape(-1)
    num_customers = len(num_events_B)
    stored_times_BT = np.asarray(columns["event_times"]).reshape(num_customers, -1 if num_customers else 1)
    stored_events = stored_times_BT.shape[1]
    longest = int(num_events_B.max(initial=1))
    if num_events_B.min(initial=1) < 1 or longest > min(stored_events, layout.max_events):
        raise UnsafeError(
            f"sequences: num_events must be 1 to {min(stored_events, layout.max_events)}, found "
            f"{num_events_B.min(initial=1)} to {longest}; rebuild the sequences"
        )
    is_real_BT = np.arange(longest) < num_events_B[:, None]

    def events(name: str, empty: float) -> NDArray[Any]:
        """[B, T, width], padding replaced by `empty`."""
        shape = (num_customers, stored_events, WIDTHS[name](layout))
        stored = _reshaped(columns, name, shape)[:, :longest]
        return np.where(is_real_BT[:, :, None], stored, np.asarray(empty, dtype=stored.dtype))

    def profile(name: str) -> NDArray[Any]:
        return np.array(_reshaped(columns, name, (num_customers, WIDTHS[name](layout))))

    as_of_B = np.broadcast_to(np.asarray(as_of_us, dtype=np.int64), (num_customers,)).copy()
    times_BT = np.where(is_real_BT, stored_times_BT[:, :longest], 0).astype(np.int64)
    if (times_BT.max(axis=1, initial=0) >= as_of_B).any():
        raise UnsafeError("sequences: an event is not older than as_of; a vector must not see the future; rebuild them")

    categorical_BTC, sets_BTS, profile_BP = events("categorical", 0), events("sets", 0), profile("profile_categorical")
    _check_ids(categorical_BTC, layout.categorical, "categorical")
    _check_ids(profile_BP, layout.profile_categorical, "profile_categorical")
    start = 0
    for attribute in layout.sets:
        stop = start + attribute.max_values
        ids = CategoricalAttribute(name=attribute.name, num_ids=attribute.num_ids)
        _check_ids(sets_BTS[:, :, start:stop].reshape(-1, 1), (ids,), "sets")
        start = stop
    key_B = np.array(columns["customer_key"], dtype=np.int64).reshape(-1)
    return Batch(
        customer_key_B=torch.from_numpy(key_B),
        num_events_B=torch.from_numpy(num_events_B.copy()),
        as_of_B=torch.from_numpy(as_of_B),
        event_times_BT=torch.from_numpy(times_BT),
        categorical_BTC=torch.from_numpy(categorical_BTC.astype(np.int64)),
        sets_BTS=torch.from_numpy(sets_BTS.astype(np.int64)),
        numerical_BTN=torch.from_numpy(events("numerical", np.nan).astype(np.float32)),
        profile_categorical_BP=torch.from_numpy(profile_BP.astype(np.int64)),
        profile_numerical_BQ=torch.from_numpy(profile("profile_numerical").astype(np.float32)),
        is_real_BT=torch.from_numpy(is_real_BT),
    )


def rows_of(columns: Columns, layout: Layout, chosen: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """The columns of some customers, those of events cut to the longest of them: what is behind it is not copied."""
    num_events_B = np.asarray(columns["num_events"]).reshape(-1)
    num_customers, shortest = len(num_events_B), int(num_events_B[chosen].min(initial=1))
    longest = max(1, int(num_events_B[chosen].max(initial=1)))
    by_customer = {
        name: np.asarray(values).reshape(num_customers, -1 if num_customers else 1) for name, values in columns.items()
    }
    widths = {"event_times": 1} | {name: WIDTHS[name](layout) for name in OF_EVENTS}
    stored_events = by_customer["event_times"].shape[1] if "event_times" in columns else 0
    of_events = widths.keys() & by_customer.keys()
    is_sound = all(by_customer[name].shape[1] == stored_events * widths[name] for name in of_events if widths[name])
    if shortest > 0 and is_sound:  # what is not, `batch_of` refuses, and says how it came
        for name in of_events:
            by_customer[name] = by_customer[name][:, : longest * widths[name]]
    return {name: values[chosen] for name, values in by_customer.items()}


def chunk_events(width: int, *, most_events: int) -> int:
    """Events, padding included, that an encoder of this width computes at once: what a cache holds, or `most_events`.

    It changes the speed, not the vectors.
    """
    return max(1, min(most_events, CACHED_NUMBERS // width))


def by_length(
    num_events_B: NDArray[np.integer[Any]], *, most_customers: int, most_events: int | None = None
) -> Iterator[NDArray[np.intp]]:
    """Positions of customers of similar length, group by group, the shortest first, so that padding costs little.

    A group holds at most `most_customers`, and at most `most_events` events, padding included, or a single customer.
    """
    order = np.argsort(num_events_B, kind="stable")
    lengths = np.asarray(num_events_B)[order]
    start = 0
    while start < len(order):
        size = len(longest := lengths[start : start + most_customers])
        if most_events is not None:
            size = max(1, int((np.arange(1, size + 1) * longest <= most_events).sum()))
        yield order[start : start + size]
        start += size


def even_groups(
    num_events_B: NDArray[np.integer[Any]], *, most_customers: int, most_events: int, least_groups: int
) -> list[NDArray[np.intp]]:
    """As `by_length`, in the same number of groups, or `least_groups`, with as few events in the largest as can be."""

    def groups(limit: int) -> list[NDArray[np.intp]]:
        return list(by_length(num_events_B, most_customers=most_customers, most_events=limit))

    num_groups = max(least_groups, len(groups(most_events)))
    low, high = 1, most_events
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(groups(middle)) <= num_groups else (middle + 1, high)
    return groups(high)


def known_columns(columns: Columns, layout: Layout) -> dict[str, NDArray[Any]]:
    """The columns as a model of this layout reads them: ids beyond its own become unknown."""
    num_ids = {
        "categorical": [one.num_ids for one in layout.categorical],
        "sets": [one.num_ids for one in layout.sets for _ in range(one.max_values)],
        "profile_categorical": [one.num_ids for one in layout.profile_categorical],
    }
    known = {name: np.asarray(values) for name, values in columns.items()}
    for name, limits in num_ids.items():
        if limits:
            of_events = known[name].reshape(-1, len(limits))
            known[name] = np.where(of_events < limits, of_events, UNKNOWN_ID).reshape(known[name].shape)
    return known


def _reshaped(columns: Columns, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    if shape[-1] == 0:
        return np.zeros(shape, dtype=np.float32 if "numerical" in name else np.int32)
    values = np.asarray(columns[name])
    if values.size != np.prod(shape):
        expected, found = int(np.prod(shape[1:])), values.size / max(shape[0], 1)
        raise UnsafeError(
            f"sequences: column '{name}': expected {expected} values a customer, found {found:g}; rebuild"
        )
    return values.reshape(shape)


def _check_ids(ids: NDArray[Any], attributes: tuple[CategoricalAttribute, ...], column: str) -> None:
    """`ids` is [..., attribute]. An id outside its vocabulary would take another value's embedding, or none."""
    for position, attribute in enumerate(attributes):
        found = ids[..., position]
        low, high = int(found.min(initial=0)), int(found.max(initial=0))
        if low < 0 or high >= attribute.num_ids:
            raise UnsafeError(
                f"sequences: column '{column}', attribute '{attribute.name}': ids go from 0 to "
                f"{attribute.num_ids - 1}, found {low} to {high}; the sequences belong to another vocabulary"
            )
