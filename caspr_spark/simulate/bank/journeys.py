"""What happens in customers' lives: at most one episode in 28 days, with a way through pages and an outcome.

A journey is made of two visits with two steps each, over pages that routine visits have as well. Half of the customers
take the steps of a visit forward, half backward: pages and their number are equal, but forward leads to the outcome far
more often. Outside of journeys visits stray through the same steps backward. So what comes next is written in the order
of what was done, and counts see little.
"""

from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from caspr_spark.simulate.bank.draws import chance, integer, looked_up, weighted

PERIOD_DAYS = 28
LAST_START = 6  # days into the period; the latest report of a takeover then still lies within it
SECOND_VISIT_AFTER_DAYS = 2
OUTCOME_SHARE_FORWARD, OUTCOME_SHARE_BACKWARD = 0.85, 0.08


@dataclass(frozen=True)
class Journey:
    """`share`: of all periods. `steps`: pages of the first and of the second visit, in the forward order.

    `outcome_after`: days from the second visit to the outcome, from and to.
    """

    share: float
    steps: tuple[tuple[str, str], tuple[str, str]]
    outcome_after: tuple[int, int]


JOURNEYS = {
    "trouble": Journey(0.16, (("limits", "help"), ("cards", "contact")), (2, 9)),  # a call
    "leaving": Journey(0.12, (("statements", "fees"), ("savings_rates", "export_data")), (3, 12)),  # churn
    "probed": Journey(0.09, (("devices", "payees"), ("contact_details", "limits")), (3, 12)),  # an account takeover
    "borrowing": Journey(0.12, (("savings", "loans"), ("statements", "loan_calculator")), (3, 12)),  # a loan
}
MOVING, TRAVELLING, NONE = "moving", "travelling", "none"
MOVING_AFTER_DAYS = 5
TRAVELLING_DAYS = (3, 10)
SHARES = {name: journey.share for name, journey in JOURNEYS.items()} | {MOVING: 0.06, TRAVELLING: 0.07}


def episode(seed: int, customer: Column, *, joined_day: Column, phase: Column, period: Column) -> Column:
    """The customer's episode in a period: a struct of kind, start_day, forward and outcome_day (null: no outcome).

    `phase` (0 to 27) is by how many days the customer's periods begin before the calendar's.
    """
    start = period * PERIOD_DAYS - phase + integer(chance(seed, "episode start", customer, period), 0, LAST_START)
    drawn = weighted(chance(seed, "episode", customer, period), {**SHARES, NONE: 1 - sum(SHARES.values())})
    kind = F.when(start > joined_day, drawn).otherwise(NONE)
    forward = chance(seed, "direction", customer, period) < 0.5
    share = F.when(forward, OUTCOME_SHARE_FORWARD).otherwise(OUTCOME_SHARE_BACKWARD)
    has_outcome = chance(seed, "outcome", customer, period) < share
    delay = looked_up(
        kind,
        {
            name: integer(chance(seed, "delay", customer, period), *journey.outcome_after)
            for name, journey in JOURNEYS.items()
        },
    )
    return F.struct(
        kind.alias("kind"),
        start.cast("int").alias("start_day"),
        forward.alias("forward"),
        F.when(has_outcome, start + SECOND_VISIT_AFTER_DAYS + delay).cast("int").alias("outcome_day"),
    )


def is_visit(which: int) -> Column:
    """True on the day of a journey's first (0) or second (1) visit, over the columns of `customer_days`."""
    return F.col("episode.kind").isin(*JOURNEYS) & (F.col("episode_day") == SECOND_VISIT_AFTER_DAYS * which)


def is_outcome(kind: str) -> Column:
    """True on the day on which the outcome of a journey of this kind happens."""
    return (F.col("episode.kind") == kind) & F.coalesce(F.col("episode.outcome_day") == F.col("day"), F.lit(False))


def steps_of_visit(which: int) -> Column:
    """The two pages of a journey's first (0) or second (1) visit, in the order of its direction."""
    steps = looked_up(
        F.col("episode.kind"), {name: F.array(*map(F.lit, journey.steps[which])) for name, journey in JOURNEYS.items()}
    )
    return F.when(F.col("episode.forward"), steps).otherwise(F.reverse(steps))


def backward_steps(draw: Column) -> Column:
    """The two pages of one visit of any journey, backward."""
    pairs = [F.array(*map(F.lit, reversed(pair))) for journey in JOURNEYS.values() for pair in journey.steps]
    return F.element_at(F.array(*pairs), integer(draw, 1, len(pairs)))
