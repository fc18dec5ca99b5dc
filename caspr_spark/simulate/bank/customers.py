"""Who the customers are, what they are used to, and what each of their days is part of.

A day is an integer, days since 1970-01-01 (UTC). All that a customer does on a day lies within that day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.simulate.bank.draws import chance, integer, weighted
from caspr_spark.simulate.bank.journeys import MOVING, MOVING_AFTER_DAYS, PERIOD_DAYS, episode

SEGMENTS = {"student": 0.15, "salaried": 0.55, "self_employed": 0.12, "retired": 0.18}
REASONS = ("payments", "cards", "savings", "statements", "funds", "settings", "help", "loans", "fees")
NUM_HABITUAL_REASONS = 4
OPENING_SHARE = 0.85  # of the customers that ever join: there when the bank begins
JOINING_DAYS = 365  # in which the others join
_YEARS_BEFORE = 10


@dataclass(frozen=True)
class Bank:
    """The invented world: its size, its first moment (UTC), the seed of every draw, and when behaviour is shifted.

    `shifts` are intervals [from, to) in which everyone behaves as in a pandemic.
    """

    num_customers: int
    start: datetime
    seed: int
    shifts: tuple[tuple[datetime, datetime], ...] = ()

    @property
    def first_day(self) -> int:
        return epoch_day(self.start)

    def chance(self, stream: str, *whose: Column) -> Column:
        return chance(self.seed, stream, *whose)

    def is_shifted(self, time: Column) -> Column:
        """True for a time within one of the shifts."""
        within = F.lit(False)
        for begin, end in self.shifts:
            within = within | ((time >= F.lit(begin)) & (time < F.lit(end)))
        return within


def epoch_day(time: datetime) -> int:
    """Days since 1970-01-01 (UTC)."""
    return (time.astimezone(UTC).date() - datetime(1970, 1, 1, tzinfo=UTC).date()).days


def customers(spark: SparkSession, bank: Bank, *, until_day: int, num_partitions: int) -> DataFrame:
    """One row a customer: number, id, habits, `joined_day`, `left_day` (null: not by `until_day`), `move_days`.

    Habits: a segment with pay-day and salary, a rent-day, how often and what a customer spends, how often and when the
    customer visits, on web or app, with or without logout, and four reasons for visits in an order of one's own.
    """
    customer = F.col("customer")
    draw = partial(_draw_of, bank, customer)
    is_opening = draw("opening") < OPENING_SHARE
    before, after = integer(draw("joined"), -365 * _YEARS_BEFORE, -1), integer(draw("joined"), 1, JOINING_DAYS)
    segment = weighted(draw("segment"), SEGMENTS)
    is_paid = segment.isin("salaried", "retired")
    reasons = F.array_sort(F.array(*[F.struct(draw(f"reason {name}"), F.lit(name).alias("name")) for name in REASONS]))
    habits = {
        "customer_id": F.format_string("synthetic-%07d", customer),
        "joined_day": F.lit(bank.first_day) + F.when(is_opening, before).otherwise(after),
        "phase": integer(draw("phase"), 0, PERIOD_DAYS - 1),
        "segment": segment,
        "birth_year": integer(draw("birth"), 1940, 2005),
        "home_region": integer(draw("region"), 0, 1_000_000),
        "pay_day": F.when(is_paid, integer(draw("pay-day"), 1, 28)),
        "salary": F.round(900 + 4000 * draw("salary") ** 2, 2),
        "rent_day": integer(draw("rent-day"), 1, 28),
        "rent": F.round(300 + 900 * draw("rent"), 2),
        "card_rate": 0.15 + 2.4 * draw("card rate") ** 3,  # payments a day
        "rotation": integer(draw("rotation"), 0, 1_000_000),
        "visit_every": F.element_at(F.array(*map(F.lit, (1, 2, 3, 5, 9))), integer(draw("visits"), 1, 5)),
        "visit_phase": integer(draw("visit phase"), 0, 1_000),
        "visit_hour": integer(draw("visit hour"), 6, 15),
        "app_share": F.when(draw("app") < 0.6, 0.9).otherwise(0.15),
        "logout_share": F.when(draw("logout") < 0.5, 0.9).otherwise(0.3),
        "reasons": F.slice(F.transform(reasons, lambda reason: reason["name"]), 1, NUM_HABITUAL_REASONS),
    }
    known = spark.range(0, bank.num_customers, 1, num_partitions).select(F.col("id").alias("customer"))
    return _with_lasting_episodes(known.select(customer, *_named(habits)), bank, until_day=until_day)


def customer_days(customers: DataFrame, bank: Bank, *, from_day: int, to_day: int) -> DataFrame:
    """One row for each customer and each day of [from_day, to_day] as a customer, the day of leaving included.

    Beside the customer's columns: `day`, `weekday` (0: Monday), `day_of_month`, `episode` (see `journeys.episode`),
    `episode_day` (days since it began, negative before) and `visit` (number of the routine visit; null without one).
    """
    begin = F.greatest(F.col("joined_day"), F.lit(max(from_day, bank.first_day)))
    end = F.least(F.coalesce(F.col("left_day"), F.lit(to_day)), F.lit(to_day))
    days = customers.where(begin <= end).withColumn("day", F.explode(F.sequence(begin, end)))
    day, customer = F.col("day"), F.col("customer")
    dated = days.withColumns(
        {
            "weekday": F.pmod(day + 3, F.lit(7)),
            "day_of_month": F.dayofmonth(F.date_from_unix_date(day)),
            "episode": _episode(bank, F.floor((day + F.col("phase")) / PERIOD_DAYS)),
            "visit": F.floor((day - F.col("visit_phase")) / F.col("visit_every")),
        }
    )
    planned = F.floor(bank.chance("visit day", customer, F.col("visit")) * F.col("visit_every"))
    is_planned = F.pmod(day - F.col("visit_phase"), F.col("visit_every")) == planned
    return dated.withColumns(
        {"episode_day": day - F.col("episode.start_day"), "visit": F.when(is_planned, F.col("visit"))}
    )


def _with_lasting_episodes(known: DataFrame, bank: Bank, *, until_day: int) -> DataFrame:
    """Plus `left_day` and `move_days`: what earlier episodes leave behind."""
    first, last = (F.floor((F.lit(day) + F.col("phase")) / PERIOD_DAYS) for day in (bank.first_day, until_day))
    episodes = F.transform(F.sequence(first, last), lambda period: _episode(bank, period))
    leaving = F.filter(
        F.col("episodes"),
        lambda one: (one["kind"] == "leaving") & (one["outcome_day"] >= bank.first_day),
    )
    moving = F.filter(F.col("episodes"), lambda one: one["kind"] == MOVING)
    return known.withColumn("episodes", episodes).select(
        *known.columns,
        F.array_min(F.transform(leaving, lambda one: one["outcome_day"])).alias("left_day"),
        F.transform(moving, lambda one: one["start_day"] + MOVING_AFTER_DAYS).alias("move_days"),
    )


def _episode(bank: Bank, period: Column) -> Column:
    customer, joined_day, phase = F.col("customer"), F.col("joined_day"), F.col("phase")
    return episode(bank.seed, customer, joined_day=joined_day, phase=phase, period=period)


def _draw_of(bank: Bank, customer: Column, stream: str) -> Column:
    return bank.chance(stream, customer)


def _named(columns: dict[str, Column]) -> Sequence[Column]:
    return [column.alias(name) for name, column in columns.items()]
