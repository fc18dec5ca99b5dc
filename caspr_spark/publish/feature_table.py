"""The latest vector of each customer, merged so that the order in which runs are published does not matter."""

from delta.tables import DeltaMergeBuilder, DeltaTable
from pyspark.sql import DataFrame

IS_NEWER = "run.as_of > latest.as_of or (run.as_of = latest.as_of and run.run_id <> latest.run_id)"
"""A later as_of always wins; at the same as_of the run that is published later does."""


def merged_into_latest(run: DataFrame, latest: DeltaTable) -> DeltaMergeBuilder:
    """The MERGE of one run into CUSTOMER_EMBEDDINGS, ready to execute.

    Customers that the run does not hold keep the vector they have.
    """
    matched = latest.alias("latest").merge(run.alias("run"), "latest.customer_id = run.customer_id")
    return matched.whenMatchedUpdateAll(condition=IS_NEWER).whenNotMatchedInsertAll()
