"""Card payments and page views of any number, and what arrives day by day, as Spark frames. Synthetic; for benchmarks.

Every value is a hash of its row's number and the seed, so the rows are the same however Spark cuts the work.
"""

from datetime import UTC, datetime, timedelta

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.simulate.purchases import chance

START = datetime(2024, 1, 1, tzinfo=UTC)
HISTORY_DAYS = 364
EVENTS_A_CUSTOMER = 100
ARRIVED_A_CUSTOMER = 10
LATE_SHARE = 0.02
_PAGES = ["home", "login", "search", "offer", "payment", "card", "statement", "message", "limits", "logout"]


def end_of_day(day: int) -> datetime:
    """The end of a day after the history; day 0 ends with the history itself."""
    return START + timedelta(days=HISTORY_DAYS + day)


def history(spark: SparkSession, *, num_events: int, seed: int) -> tuple[DataFrame, DataFrame]:
    """Payments and page views of the first `HISTORY_DAYS` days, half each; a hundredth as many customers.

    The most active customers have many times the events of the others.
    """
    num_customers = num_events // EVENTS_A_CUSTOMER
    rows = spark.range(num_events).withColumnRenamed("id", "event")
    customer = F.floor(chance(seed, "event", "customer") ** 2 * num_customers)
    second = F.floor(chance(seed, "event", "time") * (HISTORY_DAYS * 86_400))
    return _tables(rows.withColumns({"customer": customer, "second": second}), seed=seed, prefix="h")


def arrivals(
    spark: SparkSession, *, num_events: int, day: int, touched_share: float, seed: int
) -> tuple[DataFrame, DataFrame]:
    """What arrives on a day after the history, from 1: `ARRIVED_A_CUSTOMER` events of each touched customer.

    `LATE_SHARE` of them happened up to three days before.
    """
    customers = spark.range(num_events // EVENTS_A_CUSTOMER).withColumnRenamed("id", "customer")
    touched = customers.withColumn("day", F.lit(day)).where(chance(seed, "customer", "day", "touched") < touched_share)
    number = F.explode(F.sequence(F.lit(0), F.lit(ARRIVED_A_CUSTOMER - 1))).alias("number")
    rows = touched.select("customer", "day", number)
    rows = rows.withColumn("event", F.col("customer") * ARRIVED_A_CUSTOMER + F.col("number"))
    start = (HISTORY_DAYS + day - 1) * 86_400
    second = F.lit(start) + F.floor(chance(seed, "event", "day", "time") * 86_400)
    is_late = chance(seed, "event", "day", "late") < LATE_SHARE
    second = F.when(is_late, second - F.floor(chance(seed, "event", "day", "delay") * 3 * 86_400)).otherwise(second)
    return _tables(rows.withColumn("second", second), seed=seed, prefix=f"d{day}")


def _tables(rows: DataFrame, *, seed: int, prefix: str) -> tuple[DataFrame, DataFrame]:
    """customer, event, second -> payments, page views."""
    common = [
        F.concat(F.lit(f"{prefix}-"), F.col("event").cast("string")).alias("id"),
        F.format_string("c%09d", F.col("customer")).alias("customer_id"),
        F.timestamp_seconds(F.lit(int(START.timestamp())) + F.col("second")).alias("at"),
    ]
    payments = rows.where("event % 2 = 0").select(
        *common,
        _one_of("merchant ", 2000, chance(seed, "event", "merchant") ** 3).alias("merchant"),
        _one_of("category ", 20, chance(seed, "event", "category") ** 2).alias("category"),
        F.round(1 + 500 * chance(seed, "event", "amount") ** 4, 2).alias("amount"),
    )
    page = F.element_at(F.array(*map(F.lit, _PAGES)), 1 + F.floor(chance(seed, "event", "page") * 10).cast("int"))
    views = rows.where("event % 2 = 1").select(
        *common, page.alias("page"), _one_of("channel ", 3, chance(seed, "event", "channel")).alias("channel")
    )
    return payments, views


def _one_of(prefix: str, number: int, share: Column) -> Column:
    return F.concat(F.lit(prefix), F.floor(share * number).cast("string"))
