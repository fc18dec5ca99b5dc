"""A synthetic bank in numpy: many refreshes of few customers in seconds, to measure how often the monitor is wrong.

Four refreshes a day touch whoever was active since the last one, and those untouched for a week. Customers differ in
how often they come, in the pages and categories they go for and in what they spend. Runs differ too: by hour, weekday
and pay-day, and by shocks to pages, amounts and traffic that last for some runs (autoregressive). A customer's vector
is a time-decayed sum of its events, passed through a fixed non-linear map, so it also moves with time alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caspr_spark.monitor.sketch import DISTANCE_EDGES, NUM_DISTANCE_BINS, NUMBER_BINS_A_UNIT, Counts, Floats, Sketch

Ints = NDArray[np.int64]
START = datetime(2024, 1, 1, tzinfo=UTC)
RUNS_A_DAY, WARM_UP_DAYS, MAX_AGE_DAYS = 4, 90, 7.0
PAGES, CATEGORIES, SOURCES = 12, 10, 3
CARD = 2
"""The source whose events have a category and an amount; those of the others have a page."""
UNKNOWN_SHARE = 0.004
SIZE, HALF_LIFE_DAYS = 16, 14.0


@dataclass(frozen=True)
class Fault:
    """What breaks from run `begins` on."""

    begins: int = 10**9
    renamed_page: int | None = None
    """The new name has no id in the vocabulary."""
    dropped_category: int | None = None
    """Events of this category no longer come."""
    no_categories: bool = False
    """The column is empty."""
    amount_factor: float = 1.0
    turn: float = 0.0
    """All vectors turn in one plane by this many radians a run."""
    restless: float = 0.0
    """Movement grows by this share a run."""


QUIET = Fault()


class _Events(NamedTuple):
    """New events of one run; a page or category past the last is unknown, -1 is missing."""

    customer: Ints
    source: Ints
    page: Ints
    category: Ints
    log_amount: Floats


def refreshes(*, num_runs: int, num_customers: int, seed: int, fault: Fault = QUIET) -> Iterator[Sketch]:
    """The sketches of `num_runs` refreshes, after months that fill the customers' histories."""
    bank = _Bank(num_customers, seed)
    for number in range(-WARM_UP_DAYS * RUNS_A_DAY, num_runs):
        sketch = bank.refresh(number, fault if number >= fault.begins else QUIET)
        if number >= 0:
            yield sketch


class _Bank:
    def __init__(self, num_customers: int, seed: int) -> None:
        self.random = random = np.random.default_rng(seed)
        n = self.num_customers = num_customers
        self.sessions_a_day = random.lognormal(-1.3, 0.8, n)
        self.pages = random.dirichlet(np.linspace(1.2, 0.25, PAGES), n)
        self.categories = random.dirichlet(np.linspace(0.9, 0.25, CATEGORIES), n)
        self.sources = random.dirichlet(np.array([1.0, 1.5, 2.0]), n)
        self.log_amount = random.normal(3.0, 0.6, n)
        self.restlessness = random.lognormal(0, 0.3, n)

        self.of_page, self.of_category = self._directions(PAGES + 1), self._directions(CATEGORIES + 2)
        self.of_source, self.of_hour = self._directions(SOURCES), self._directions(RUNS_A_DAY)
        self.of_amount, self.bias = self._directions(1)[0], 0.5 * self._directions(1)[0]
        self.mixing = 1.5 * self._directions(SIZE)

        self.state, self.weight, self.state_day = np.zeros((n, SIZE)), np.ones(n), -float(WARM_UP_DAYS)
        self.vector, self.vector_day = np.zeros((n, SIZE)), np.full(n, np.nan)
        self.traffic = self.level = 0.0
        self.page_mood, self.category_mood = np.zeros(PAGES), np.zeros(CATEGORIES)

    def refresh(self, number: int, fault: Fault) -> Sketch:
        day = number / RUNS_A_DAY
        as_of = START + timedelta(days=day)
        events = self._new_events(number, as_of, fault)
        num_new = np.bincount(events.customer, minlength=self.num_customers)
        age = day - self.vector_day
        touched = (num_new > 0) | (age >= MAX_AGE_DAYS)
        fresh = self._vectors(events, num_new, number)
        if fault.turn:
            fresh = _turned(fresh, fault.turn * (number - fault.begins))
        compared = touched & ~np.isnan(age)
        distance = 1 - np.sum(self.vector * fresh, axis=1)[compared]
        distance *= (1 + fault.restless) ** max(number - fault.begins, 0)
        self.vector = np.where(touched[:, None], fresh, self.vector)
        self.vector_day = np.where(touched, day, self.vector_day)
        vectors = fresh[touched] if touched.any() else np.zeros((1, SIZE))
        return Sketch(
            run_id=f"run-{number:05d}",
            as_of=as_of,
            kind="refresh",
            num_customers=int(touched.sum()),
            distances=_strata(distance, age[compared], num_new[compared] > 0),
            means=vectors.mean(axis=0),
            variances=vectors.var(axis=0),
            shares=_shares(events),
            numbers={"amount": _amounts(events)},
        )

    def _directions(self, num: int) -> Floats:
        return np.asarray(self.random.normal(0, 1 / np.sqrt(SIZE), (num, SIZE)))

    def _new_events(self, number: int, as_of: datetime, fault: Fault) -> _Events:
        random, slot = self.random, number % RUNS_A_DAY
        is_weekend, is_payday = as_of.weekday() >= 5, as_of.day in (25, 26, 27)
        self.traffic = 0.7 * self.traffic + random.normal(0, 0.1)
        self.level = 0.7 * self.level + random.normal(0, 0.04)
        self.page_mood = 0.7 * self.page_mood + random.normal(0, 0.08, PAGES)
        self.category_mood = 0.7 * self.category_mood + random.normal(0, 0.08, CATEGORIES)

        activity = (0.25, 0.7, 1.6, 1.4)[slot] * (0.7 if is_weekend else 1.0) * np.exp(self.traffic + 0.3 * is_payday)
        sessions = random.poisson(self.sessions_a_day / RUNS_A_DAY * activity)
        customer = np.repeat(np.arange(self.num_customers), sessions + random.poisson(3.0 * sessions))
        source = self._picked(self.sources, customer, 0.2 * slot * (np.arange(SOURCES) == 0))
        page = self._picked(self.pages, customer, self.page_mood + 0.3 * is_weekend * (np.arange(PAGES) % 3 == 0))
        tilt = self.category_mood + 0.3 * is_weekend * (np.arange(CATEGORIES) == 2)
        category = self._picked(self.categories, customer, tilt)
        log_amount = self.log_amount[customer] + self.level + 0.35 * is_payday + np.log(fault.amount_factor)
        log_amount += random.normal(0, 0.9, len(customer))

        is_card, is_unknown = source == CARD, random.random(len(customer)) < UNKNOWN_SHARE
        gone = is_card & (category == fault.dropped_category)
        page = np.where(is_card, -1, np.where(is_unknown | (page == fault.renamed_page), PAGES, page))
        category = np.where(is_card & (not fault.no_categories), np.where(is_unknown, CATEGORIES, category), -1)
        return _Events(*(column[~gone] for column in (customer, source, page, category, log_amount)))

    def _picked(self, shares: Floats, customer: Ints, tilt: Floats) -> Ints:
        """A value for each event: the customer's own shares, tilted by what moves everybody in this run."""
        edges = np.cumsum(shares * np.exp(tilt), axis=1)[customer]
        return np.asarray((self.random.random(len(customer))[:, None] * edges[:, -1:] > edges).sum(axis=1))

    def _vectors(self, events: _Events, num_new: Ints, number: int) -> Floats:
        decay = 0.5 ** ((number / RUNS_A_DAY - self.state_day) / HALF_LIFE_DAYS)
        self.state_day = number / RUNS_A_DAY
        amounts = (np.log1p(np.exp(events.log_amount)) - 3) / 1.1
        of_card = self.of_category[events.category] + amounts[:, None] * self.of_amount
        is_card = (events.source == CARD)[:, None]
        what = self.of_source[events.source] + np.where(is_card, of_card, self.of_page[events.page])
        self.state *= decay
        np.add.at(self.state, events.customer, what + self.of_hour[number % RUNS_A_DAY])
        self.weight = self.weight * decay + num_new
        mean = self.state / (1 + self.weight)[:, None]
        noise = 0.02 * self.restlessness[:, None] * self._directions(self.num_customers)
        moved = np.tanh((3 * mean + self.bias) @ self.mixing) + noise
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True))


def _turned(vectors: Floats, angle: float) -> Floats:
    turned = vectors.copy()
    turned[:, 0] = np.cos(angle) * vectors[:, 0] - np.sin(angle) * vectors[:, 1]
    turned[:, 1] = np.sin(angle) * vectors[:, 0] + np.cos(angle) * vectors[:, 1]
    return turned


def _strata(distance: Floats, gap_days: Floats, has_new: NDArray[np.bool_]) -> dict[str, Floats]:
    bins = np.searchsorted(DISTANCE_EDGES, distance, side="right")
    gap = np.searchsorted([0.5, 2, 8, 32], gap_days, side="right")
    strata = sorted({(bool(new), int(days)) for new, days in zip(has_new, gap, strict=True)})
    return {
        f"{'new' if new else 'no new'} events, gap {days}": np.bincount(
            bins[(has_new == new) & (gap == days)], minlength=NUM_DISTANCE_BINS
        ).astype(float)
        for new, days in strata
    }


def _shares(events: _Events) -> dict[tuple[str, str], Counts]:
    counts = {("value", "source"): counts_of(events.source, events.customer, [f"s{n}" for n in range(SOURCES)])}
    for name, values, num in (("page", events.page, PAGES), ("category", events.category, CATEGORIES)):
        here = values >= 0
        known = here & (values < num)
        counts["present", name] = counts_of((~here).astype(int), events.customer, ["present", "missing"])
        counts["known", name] = counts_of(
            (values[here] == num).astype(int), events.customer[here], ["known", "unknown"]
        )
        counts["value", name] = counts_of(values[known], events.customer[known], [f"v{n}" for n in range(num)])
    return {key: one for key, one in counts.items() if one.bins}


def _amounts(events: _Events) -> Counts:
    of_card = events.source == CARD
    bins = np.floor(NUMBER_BINS_A_UNIT * np.log1p(np.exp(events.log_amount[of_card]))).astype(int)
    names, places = np.unique(bins, return_inverse=True)
    return counts_of(places, events.customer[of_card], [str(name) for name in names])


def counts_of(values: Any, customer: Ints, names: list[str]) -> Counts:
    """As Spark counts them; `values` are places in `names`."""
    if not len(values):
        return Counts({}, 0)
    _, own = np.unique(customer, return_inverse=True)
    table = np.bincount(own * len(names) + values, minlength=(own.max() + 1) * len(names)).reshape(-1, len(names))
    weight, total = table.sum(axis=1), table.sum(axis=0)
    squares = ((table - weight[:, None] * total / total.sum()) ** 2).sum(axis=0)
    told = [place for place in range(len(names)) if total[place]]
    return Counts(
        bins={names[place]: float(total[place]) for place in told},
        customers=float(weight.sum() ** 2 / (weight**2).sum()),
        squares={names[place]: float(squares[place]) for place in told},
    )
