"""The page of an exploration: what stands on it, and how numbers become sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from caspr_spark.explore.probe import Probed
from caspr_spark.monitor.report import Shown, rendered

NOTEWORTHY = 0.2
"""Standard deviations from everybody's mean from which on a difference is told in words."""
_NUM_TOLD = 3


class Contrast(NamedTuple):
    """A measure of a segment's members, on average, beside that of everybody."""

    measure: str
    mean: float
    mean_of_all: float
    deviations: float
    """The difference, in standard deviations of customers."""


class ValueContrast(NamedTuple):
    """A value and its share of events, beside that in everybody's events."""

    value: str
    share: float
    share_of_all: float


class Segment(NamedTuple):
    """A segment as the page describes it; `contrasts` with the largest differences first."""

    number: int
    size: int
    share: float
    contrasts: Sequence[Contrast]
    values: Mapping[str, Sequence[ValueContrast]]
    """Attribute -> its most over-represented values."""

    @property
    def sentence(self) -> str:
        """What its members do more and less than everybody."""
        told = [one for one in self.contrasts if abs(one.deviations) >= NOTEWORTHY][:_NUM_TOLD]
        parts = []
        for name, found in (
            ("Above everybody", [one for one in told if one.deviations > 0]),
            ("Below everybody", [one for one in told if one.deviations < 0]),
        ):
            texts = [f"{one.measure} {shown(one.mean)} (everybody {shown(one.mean_of_all)})" for one in found]
            if texts:
                parts.append(f"{name}: {', '.join(texts)}.")
        return " ".join(parts) or "In what was counted its members are much like everybody."


class Lookalike(NamedTuple):
    """A customer near the list; `figures` stand in the order of `Lookalikes.measures`, NaN where unknown."""

    customer_id: str
    similarity: float
    figures: Sequence[float]


@dataclass(frozen=True)
class Lookalikes:
    """The customers most similar to a list."""

    num_listed: int
    unknown: Sequence[str]
    """Listed, but without a vector in this run."""
    measures: Sequence[str]
    references: list[Lookalike]
    """The listed and everybody: medians of similarity, means of the figures."""
    customers: list[Lookalike]


@dataclass(frozen=True)
class Page:
    """Everything on the page, in its order."""

    facts: Mapping[str, str]
    notes: Sequence[str]
    picture: Shown
    segments: Sequence[Segment]
    segments_note: str
    """How clear the segments are, or why there are none."""
    lookalikes: Lookalikes | None
    """None where no list was given."""
    probes: Mapping[str, tuple[Probed, bool]]
    """Attribute -> what was found, and whether it is an input of the model."""
    features: Sequence[str]
    """Names of the features of the probes, the vector first."""


def exploration_html(page: Page) -> str:
    """The page as HTML. Every text is escaped."""
    return rendered("caspr_spark.explore", "explore.html.j2", page=page, shown=shown, verdict=verdict)


def verdict(probed: Probed, vector: str) -> str:
    """Whether the vector tells an attribute, in a word or two."""
    if not probed.scores:
        return "–"
    return "can be read" if probed.is_readable_from(vector) else "not beyond the baseline"


def shown(value: Any) -> str:
    """A number with about three digits; a dash where it is unknown."""
    if value is None or not np.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
