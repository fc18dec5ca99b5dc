"""Whose sequence may differ from what the previous run saw."""

from datetime import datetime
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def touched_customers(
    *,
    events: DataFrame,
    changed_events: DataFrame,
    profiles: DataFrame,
    changed_profiles: DataFrame,
    since: datetime,
    as_of: datetime,
) -> DataFrame:
    """Distinct customer_id of the customers whose events or profiles before `as_of` are not those before `since`.

    They have an event or profile row in [since, as_of), or one before `as_of` among the changed rows (new, late,
    corrected or deleted since the run as of `since`).
    """
    window = [rows.where(F.col(time) >= F.lit(since)) for rows, time in ((events, "event_time"), (profiles, _VALID))]
    rows = [(window[0], "event_time"), (window[1], _VALID), (changed_events, "event_time"), (changed_profiles, _VALID)]
    ids = [table.where(F.col(time) < F.lit(as_of)).select("customer_id") for table, time in rows]
    return reduce(DataFrame.unionAll, ids).distinct()


def stale_customers(latest: DataFrame, *, before: datetime) -> DataFrame:
    """CUSTOMER_EMBEDDINGS -> customer_id of the vectors whose as_of is before a time."""
    return latest.where(F.col("as_of") < F.lit(before)).select("customer_id")


_VALID = "valid_from_time"
