"""All sources -> one timeline; all profiles -> one table: the union of what the sources and profiles gave."""

from collections.abc import Mapping, Sequence
from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.config import Attribute
from caspr_spark.tables import column_types
from schemas.contract import Contract


def timeline(parts: Sequence[DataFrame], contract: Contract) -> DataFrame:
    """The parts' rows in the contract's columns; a column that a part does not have is null there."""
    fields = column_types(contract)
    aligned = [
        part.select(
            *[
                F.col(name).cast(data_type).alias(name)
                if name in part.columns
                else F.lit(None).cast(data_type).alias(name)
                for name, data_type in fields.items()
            ]
        )
        for part in parts
    ]
    return reduce(DataFrame.unionByName, aligned)


def profile_rows(taken: DataFrame, *, profile: str, attributes: Mapping[str, Attribute]) -> DataFrame:
    """Taken rows of one profile table -> PROFILES; only this profile's attributes have columns."""
    return taken.select(
        "customer_id", F.lit(profile).alias("profile"), F.col("event_time").alias("valid_from_time"), *attributes
    )
