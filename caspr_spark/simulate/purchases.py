"""An invented shop of any size: order lines and accounts, as Spark frames. Synthetic; for benchmarks and tests.

Every value is a hash of its row's number and the seed, so the rows are the same however Spark cuts the work.
"""

from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

START = datetime(2024, 1, 1, tzinfo=UTC)
NUM_DAYS = 364
NUM_ARTICLES, NUM_GROUPS, NUM_SHOPS = 2000, 40, 50
MEAN_ORDERS, MEAN_LINES = 40, 4
_GRANULES = 1_000_000


def order_lines(spark: SparkSession, *, num_customers: int, seed: int) -> DataFrame:
    """order_id, customer_id, ordered_at, shop, article, article_group, price: about 160 lines a customer.

    Orders per customer have a heavy tail (1 to 800). A customer keeps to a habit: a home shop and a few article groups.
    """
    customers = spark.range(num_customers).withColumnRenamed("id", "customer")
    tail = 1 / F.sqrt(chance(seed, "customer", "orders"))
    num_orders = F.least(F.ceil(F.lit(MEAN_ORDERS / 2) * tail), F.lit(800)).cast("int")
    orders = customers.withColumn("order", F.explode(F.sequence(F.lit(1), num_orders)))
    num_lines = F.floor(chance(seed, "customer", "order", "lines") * (2 * MEAN_LINES - 1)).cast("int") + 1
    lines = orders.withColumn("line", F.explode(F.sequence(F.lit(1), num_lines)))

    second = F.floor(chance(seed, "customer", "order", "time") * NUM_DAYS * 86_400).cast("long")
    home = F.floor(chance(seed, "customer", "shop") * NUM_SHOPS)
    elsewhere = F.floor(chance(seed, "customer", "order", "shop") * NUM_SHOPS)
    is_at_home = chance(seed, "customer", "order", "place") < 0.8
    habit = F.floor(chance(seed, "customer", "group") * NUM_GROUPS)
    step = F.floor(chance(seed, "customer", "order", "line", "group") ** 3 * NUM_GROUPS)
    group = ((habit + step) % NUM_GROUPS).cast("int")
    in_group = F.floor(chance(seed, "customer", "order", "line", "article") ** 2 * (NUM_ARTICLES // NUM_GROUPS))
    price = F.round(1 + 20 * chance(seed, "customer", "order", "line", "price") ** 3, 2)
    return lines.select(
        F.concat_ws("-", F.col("customer").cast("string"), F.col("order").cast("string")).alias("order_id"),
        F.col("line").alias("line"),
        _customer_id(),
        F.timestamp_seconds(F.lit(int(START.timestamp())) + second).alias("ordered_at"),
        F.concat(F.lit("shop "), F.when(is_at_home, home).otherwise(elsewhere)).alias("shop"),
        F.concat(F.lit("article "), group * (NUM_ARTICLES // NUM_GROUPS) + in_group).alias("article"),
        F.concat(F.lit("group "), group).alias("article_group"),
        price.alias("price"),
    )


def accounts(spark: SparkSession, *, num_customers: int, seed: int) -> DataFrame:
    """customer_id, country, age; every tenth customer has none."""
    customers = spark.range(num_customers).withColumnRenamed("id", "customer").where("customer % 10 <> 9")
    country = F.element_at(
        F.array(*map(F.lit, ["DE", "FR", "NL", "PL", "IT"])),
        1 + F.floor(chance(seed, "customer", "country") * 5).cast("int"),
    )
    age = (18 + F.floor(chance(seed, "customer", "age") * 63)).cast("int")
    return customers.select(_customer_id(), country.alias("country"), age.alias("age"))


def _customer_id() -> Column:
    return F.format_string("c%08d", F.col("customer")).alias("customer_id")


def chance(seed: int, *parts: str) -> Column:
    """A number in (0, 1): columns named before the last part, which only says what the number is for."""
    *columns, purpose = parts
    hashed = F.xxhash64(F.lit(seed), F.lit(purpose), *columns)
    return (F.pmod(hashed, F.lit(_GRANULES)) + 0.5) / _GRANULES
