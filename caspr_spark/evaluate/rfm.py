"""The baseline: recency, frequency and money of a task's sources before the cut (CASPR paper, table 2)."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

WINDOWS_DAYS = (7, 14, 28, 56, 91)
WEEK_DAYS, MONTH_DAYS = 7, 28
"""Weeks and months are counted back from the cut, so that none of them is cut short."""


def rfm_features(events: DataFrame, *, source: str, money: str, cut: datetime, others: Sequence[str] = ()) -> DataFrame:
    """`events` -> customer_id and features (double) of each customer with an event of `source` before `cut` (UTC).

    Times are in days; a statistic of gaps is null for a customer with one event, one of money where none is known. Of
    `others`, more sources, there are recency and frequency (`<source>_...`): null for a customer with none of their
    events, but for the counts, which are 0.
    """
    found = _of_source(events, source=source, money=money, cut=cut)
    for other in others:
        past = _past(events, source=other, cut=cut)
        counted = past.groupBy("customer_id").agg(*_named({**_recency(), **_frequency()}))
        columns = [F.col(name).alias(f"{other}_{name}") for name in counted.columns if name != "customer_id"]
        found = found.join(counted.select("customer_id", *columns), on="customer_id", how="left")
        found = found.fillna(0.0, [name for name in found.columns if name.startswith(f"{other}_num_")])
    return found


def _of_source(events: DataFrame, *, source: str, money: str, cut: datetime) -> DataFrame:
    activities = _past(events.withColumn("money", F.col(money)), source=source, cut=cut)
    whole = activities.groupBy("customer_id").agg(*_named({**_recency(), **_frequency(), **_money()}))
    weekly = _spending_rate(activities, period_days=WEEK_DAYS, name="week")
    monthly = _spending_rate(activities, period_days=MONTH_DAYS, name="month")
    return whole.join(weekly, on="customer_id", how="left").join(monthly, on="customer_id", how="left")


def _past(events: DataFrame, *, source: str, cut: datetime) -> DataFrame:
    """`events` of a source before the cut, with age_days, and gap_days since the one before."""
    past = events.where((F.col("source") == source) & (F.col("event_time") < F.lit(cut)))
    previous = F.lag("event_time").over(Window.partitionBy("customer_id").orderBy("event_time", "event_id"))
    age, gap = _days(F.lit(cut), F.col("event_time")), _days(F.col("event_time"), previous)
    return past.withColumns({"age_days": age, "gap_days": gap})


def _days(later: Column, earlier: Column) -> Column:
    return (F.unix_micros(later) - F.unix_micros(earlier)) / 86_400e6


def _recency() -> dict[str, Column]:
    age = F.col("age_days")
    return {
        "days_since_last": F.min(age),
        "days_since_first": F.max(age),
        "days_first_to_last": F.max(age) - F.min(age),
    }


def _frequency() -> dict[str, Column]:
    age = F.col("age_days")
    counts = {f"num_events_{days}_days": F.count_if(age <= days) for days in WINDOWS_DAYS}
    active = {
        f"num_active_{name}s": F.size(F.collect_set(F.ceil(age / days)))
        for name, days in {"day": 1, "week": WEEK_DAYS, "month": MONTH_DAYS}.items()
    }
    return {"num_events": F.count(F.lit(1)), **counts, **active, **_statistics("gap_days")}


def _money() -> dict[str, Column]:
    age, money = F.col("age_days"), F.col("money")
    sums = {f"money_{days}_days": F.coalesce(F.sum(F.when(age <= days, money)), F.lit(0)) for days in WINDOWS_DAYS}
    return {"money": F.coalesce(F.sum(money), F.lit(0)), **sums, **_statistics("money")}


def _spending_rate(activities: DataFrame, *, period_days: int, name: str) -> DataFrame:
    """customer_id and the statistics of the money per week or month with an activity."""
    period = F.ceil(F.col("age_days") / period_days).alias("period")
    spent = activities.groupBy("customer_id", period).agg(F.sum("money").alias(f"money_per_{name}"))
    return spent.groupBy("customer_id").agg(*_named(_statistics(f"money_per_{name}")))


def _statistics(column: str) -> dict[str, Column]:
    functions = {"min": F.min, "max": F.max, "mean": F.mean, "std": F.stddev_pop}
    return {f"{column}_{name}": function(column) for name, function in functions.items()}


def _named(features: Mapping[str, Column]) -> list[Column]:
    return [column.cast("double").alias(name) for name, column in features.items()]
