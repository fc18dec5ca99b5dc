"""What the profiles say of customers as of a time: one rule for sequences, labels and probes."""

from datetime import datetime

from pyspark.sql import DataFrame, SparkSession

from caspr_spark.config import Config
from caspr_spark.sequences.timeline import profiles_as_of
from caspr_spark.tables import read_table
from pipelines.contracts import profile_contract
from pipelines.customer_states import of_customers


def known_profiles(
    spark: SparkSession, config: Config, as_of: datetime, *, customers: DataFrame | None = None
) -> DataFrame:
    """customer_id and every declared profile attribute, as the newest row before `as_of` (UTC, exclusive) has it.

    `customers`: customer_id of the few that are asked for; None for all.
    """
    profile_of = {name: profile for profile, table in config.profiles.items() for name in table.attributes}
    rows = of_customers(customers, read_table(spark, profile_contract(config), config.root))
    return profiles_as_of(rows, as_of=as_of, attributes=profile_of)
