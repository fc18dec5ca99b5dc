"""Calls, account takeovers as they are reported, and account records: `customer_days` -> raw rows, with `at`."""

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from caspr_spark.simulate.bank.customers import Bank
from caspr_spark.simulate.bank.draws import integer, moment, one_of
from caspr_spark.simulate.bank.journeys import is_outcome
from caspr_spark.simulate.bank.money import MOST_THEFTS, stolen_amount
from caspr_spark.simulate.bank.visits import takeover_second

TOPICS = ("payments", "login", "fees", "loans", "savings")
REGIONS = ("north", "east", "south", "west", "capital", "coast", "hills")
CALLS_A_DAY = 0.004
REPORTED_AFTER_DAYS = (1, 6)


def calls(days: DataFrame, bank: Bank) -> DataFrame:
    """call_id, customer_id, called_at, topic, seconds, at: about anything, about card trouble, about a takeover."""
    customer, day = F.col("customer"), F.col("day")
    share = CALLS_A_DAY * F.when(bank.is_shifted(moment(day, F.lit(12 * 3600))), 4).otherwise(1)
    drawn = one_of(bank.chance("topic", customer, day), TOPICS)
    candidates = [
        _call("any", bank.chance("call", customer, day) < share, drawn, 9),
        _call("trouble", is_outcome("trouble"), F.lit("cards"), 12),
        _call("takeover", _is_reported(bank), F.lit("fraud"), 15),
    ]
    rows = days.select("customer", "customer_id", "day", F.explode(F.array(*candidates)).alias("call"))
    at = moment(day, F.col("call.second") + integer(bank.chance("call time", customer, day), 0, 2 * 3600))
    return rows.where("call is not null").select(
        F.concat_ws("-", customer, day, F.col("call.why")).alias("call_id"),
        "customer_id",
        at.alias("called_at"),
        "call.topic",
        integer(bank.chance("call seconds", customer, day) ** 2, 20, 1800).alias("seconds"),
        at.alias("at"),
    )


def takeovers(days: DataFrame, bank: Bank) -> DataFrame:
    """takeover_id, customer_id, taken_over_at, reported_at, amount_lost (euros), at: the labels of fraud.

    A row is there when it is reported, some days after it happened.
    """
    lost = reduce(Column.__add__, [stolen_amount(bank, number) for number in range(MOST_THEFTS)])
    reported_at = moment(F.col("day"), integer(bank.chance("report", F.col("customer"), F.col("day")), 18, 22) * 3600)
    return days.where(_is_reported(bank)).select(
        F.concat_ws("-", F.col("customer"), F.col("episode.outcome_day")).alias("takeover_id"),
        "customer_id",
        moment(F.col("episode.outcome_day"), takeover_second(bank)).alias("taken_over_at"),
        reported_at.alias("reported_at"),
        F.round(lost, 2).alias("amount_lost"),
        reported_at.alias("at"),
    )


def accounts(days: DataFrame, bank: Bank) -> DataFrame:
    """customer_id, valid_from, status (open, closed), segment, region, birth_year, at: a row whenever one changes.

    The accounts that are there when the bank begins are written in its first moment, with the date of their opening.
    """
    day, joined_day = F.col("day"), F.col("joined_day")
    is_old = (joined_day < bank.first_day) & (day == bank.first_day)
    is_moving = F.array_contains("move_days", day)
    candidates = [
        F.when(is_old, _record("open", moment(joined_day, F.lit(0)), F.lit(bank.start))),
        F.when(day == joined_day, _record("open", moment(day, F.lit(0)), moment(day, F.lit(0)))),
        F.when(is_moving, _record("open", moment(day, F.lit(60)), moment(day, F.lit(60)))),
        F.when(day == F.col("left_day"), _record("closed", moment(day, F.lit(85_000)), moment(day, F.lit(85_000)))),
    ]
    rows = days.select("*", F.explode(F.array(*candidates)).alias("record")).where("record is not null")
    num_moves = F.size(F.filter("move_days", lambda moved: moved <= day))
    place = F.pmod(F.col("home_region") + num_moves, F.lit(len(REGIONS)))
    return rows.select(
        "customer_id",
        F.col("record.valid_from").alias("valid_from"),
        F.col("record.status").alias("status"),
        "segment",
        F.element_at(F.array(*map(F.lit, REGIONS)), place.cast("int") + 1).alias("region"),
        "birth_year",
        F.col("record.at").alias("at"),
    )


def _record(status: str, valid_from: Column, at: Column) -> Column:
    return F.struct(F.lit(status).alias("status"), valid_from.alias("valid_from"), at.alias("at"))


def _call(why: str, is_made: Column, topic: Column, hour: int) -> Column:
    row = F.struct(F.lit(why).alias("why"), topic.alias("topic"), F.lit(hour * 3600).alias("second"))
    return F.when(is_made, row)


def _is_reported(bank: Bank) -> Column:
    delay = integer(bank.chance("report delay", F.col("customer"), F.col("episode.start_day")), *REPORTED_AFTER_DAYS)
    is_due = F.col("day") == F.col("episode.outcome_day") + delay
    return (F.col("episode.kind") == "probed") & F.coalesce(is_due, F.lit(False))
