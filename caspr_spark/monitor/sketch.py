"""What a run leaves behind to be judged by: counts, never customers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DISTANCE_BINS_A_DECADE = 8
DISTANCE_EDGES = 10.0 ** (np.arange(51) / DISTANCE_BINS_A_DECADE - 6)
"""Cosine distances from one on (1e-6 to 1.8) are in the bin after it; those below the first, in bin 0."""
NUM_DISTANCE_BINS = len(DISTANCE_EDGES) + 1
NUMBER_BINS_A_UNIT = 4
"""A number x is in the bin floor(4 * sign(x) * log1p(|x|)): a factor of 100 is 18 bins."""


@dataclass(frozen=True)
class Counts:
    """How often each bin occurs among a run's new events.

    With x of a customer's w values in a bin, whose share is p: `bins` are the sums of x, `squares` those of (x - p w)²
    (customers who keep to a value make its share less certain), `customers` is Kish's effective number, (sum of w)² /
    sum of w².
    """

    bins: Mapping[str, float]
    customers: float
    squares: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.bins.values())


@dataclass(frozen=True)
class Sketch:
    """One run.

    `distances`: stratum -> customers by bin of the distance (all of one length). `means`, `variances`: of each
    coordinate of the run's vectors, scaled to length 1. `shares`: (measure, attribute) -> counts, where the measure is
    value, known (bins known and unknown) or present (bins present and missing). `numbers`: attribute -> counts of bins
    that are integers, in their order. `alerts`: the baselines against which the run raised one.
    """

    run_id: str
    as_of: datetime
    kind: str
    num_customers: int
    distances: Mapping[str, Floats] = field(default_factory=dict)
    means: Floats = field(default_factory=lambda: np.zeros(0))
    variances: Floats = field(default_factory=lambda: np.zeros(0))
    shares: Mapping[tuple[str, str], Counts] = field(default_factory=dict)
    numbers: Mapping[str, Counts] = field(default_factory=dict)
    alerts: frozenset[str] = frozenset()

    @property
    def time_of_day(self) -> int:
        """Quarter of the day (UTC): who comes, and what for, differs between night and evening."""
        return self.as_of.hour // 6
