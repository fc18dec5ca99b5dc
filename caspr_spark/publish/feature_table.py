"""The latest vector of each customer, merged so that the order in which runs are published does not matter."""

from delta.tables import DeltaMergeBuilder, DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.runs import Run
from schemas.embeddings import CUSTOMER_EMBEDDINGS

IS_NEWER = "run.as_of > latest.as_of or (run.as_of = latest.as_of and run.run_id <> latest.run_id)"
"""A later as_of always wins; at the same as_of the run that is published later does."""


def merged_into_latest(rows: DataFrame, gone: DataFrame, latest: DeltaTable, run: Run) -> DeltaMergeBuilder:
    """The MERGE of one run into CUSTOMER_EMBEDDINGS, ready to execute.

    `rows`: the run's vectors; `gone`: customer_id of those whose row goes. The others keep the vector they have.
    """
    columns = CUSTOMER_EMBEDDINGS.column_names
    without = gone.select("customer_id", F.lit(run.as_of).alias("as_of"), F.lit(run.run_id).alias("run_id"))
    source = rows.select(*columns).unionByName(without, allowMissingColumns=True)
    values = {name: F.col(f"run.{name}") for name in columns}
    matched = latest.alias("latest").merge(source.alias("run"), "latest.customer_id = run.customer_id")
    return (
        matched.whenMatchedDelete(f"run.embedding is null and ({IS_NEWER})")
        .whenMatchedUpdate(f"run.embedding is not null and ({IS_NEWER})", set=dict(values))
        .whenNotMatchedInsert("run.embedding is not null", values=dict(values))
    )
