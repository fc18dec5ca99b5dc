"""The table `customer_states`, kept in step with `events`: the commit of events says which version of it holds.

A refresh appends the states of the customers that it touches and leaves the older ones in place; once they are as many
as the customers, it writes the table anew.
"""

from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.events.states import customer_states, newest_states
from caspr_spark.tables import has_its_files, last_commit_notes, read_table, table_version, write_table
from pipelines.contracts import event_contract, state_contract

_ROWS_A_CUSTOMER = 2


def states_of(spark: SparkSession, config: Config, events: DataFrame) -> DataFrame:
    """All events of some customers -> their CUSTOMER_STATES, newer than any in the table."""
    return customer_states(
        events,
        max_events=config.sequences.max_events,
        sources=list(config.sources),
        number=next_state_number(spark, config),
    )


def next_state_number(spark: SparkSession, config: Config) -> int:
    """Greater than that of any state in the table."""
    return table_version(spark, state_contract(config), config.root) + 1


def states_in_step(spark: SparkSession, config: Config, *, customers: DataFrame | None = None) -> DataFrame | None:
    """The states of these customers (None: all) that go with the newest commit of `events`, one row a customer.

    None where the table has none, or holds fewer events of a customer than sequences have, or where maintenance has
    removed files of that version: it joins small ones, and then no run may have followed within its retention.
    """
    noted = _noted(spark, config)
    if noted.get("max_events", 0) < config.sequences.max_events or "number_anew" not in noted:
        return None
    states = read_table(spark, state_contract(config), config.root, version=noted["version"])
    if not has_its_files(states):
        return None
    has_added = noted["num_rows"] != noted["num_rows_anew"]
    if customers is None:
        return newest_states(states) if has_added else states
    if not has_added:
        return of_customers(customers, states)
    # whoever was touched since the table was written anew is found in few small files
    added = newest_states(of_customers(customers, states.where(F.col("state_number") > noted["number_anew"])))
    others = customers.join(added.select("customer_id"), on="customer_id", how="left_anti")
    if others.isEmpty():
        return added
    anew = states.where(F.col("state_number") <= noted["number_anew"])
    return of_customers(others, anew).unionByName(added)


def of_customers(customers: DataFrame | None, rows: DataFrame) -> DataFrame:
    """The rows of these few customers (None: of all)."""
    return rows if customers is None else rows.join(F.broadcast(customers), on="customer_id", how="left_semi")


def write_states(spark: SparkSession, config: Config, states: DataFrame, *, changed: bool = False) -> dict[str, Any]:
    """Write the states of all customers, or add those that `changed`; returns what the commit of events must note."""
    contract = state_contract(config)
    noted = _noted(spark, config)
    num_anew = noted.get("num_rows_anew", 0)
    before = states_in_step(spark, config) if changed else None
    if before is not None and noted["num_rows"] >= _ROWS_A_CUSTOMER * num_anew:
        others = before.join(states.select("customer_id"), on="customer_id", how="left_anti")
        states, before = others.unionByName(states), None
    write_table(states, contract, config.root, mode="overwrite" if before is None else "append")
    version = table_version(spark, contract, config.root)
    num_rows = read_table(spark, contract, config.root, version=version).count()
    return {
        "version": version,
        "num_rows": num_rows,
        "num_rows_anew": num_rows if before is None else num_anew,
        "number_anew": version if before is None else noted["number_anew"],  # rows of a later number were added
        "max_events": config.sequences.max_events,
    }


def _noted(spark: SparkSession, config: Config) -> dict[str, Any]:
    numbers = last_commit_notes(spark, event_contract(config), config.root).get("numbers", {})
    noted: dict[str, Any] = numbers.get("states", {})
    return noted
