"""Whatever arrives, `events`, `profiles` and `rejected` are what a build from all raw rows would give."""

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import UnsafeError
from caspr_spark.tables import read_table, table_version
from pipelines.build_events import build_events
from pipelines.contracts import event_contract
from pipelines.customer_states import states_in_step
from pipelines.refresh_events import refresh_events
from tests.events.cases import AS_OF
from tests.refresh.world import World


def states_found(spark: SparkSession, config: Config) -> list[Any]:
    """The states that hold, as lists that do not depend on any order."""
    states = states_in_step(spark, config)
    assert states is not None
    return shown_states(states.where("num_events > 0"))


def states_of_events(spark: SparkSession, config: Config) -> list[Any]:
    """What the states must be: made of the events alone, without Spark's windows."""
    events = [row.asDict() for row in read_table(spark, event_contract(config), config.root).collect()]
    found = []
    for customer in {event["customer_id"] for event in events}:
        theirs = sorted(
            (event for event in events if event["customer_id"] == customer),
            key=lambda event: (event["event_time"], event["event_id"]),
            reverse=True,
        )
        last = {event["source"]: event["event_id"] for event in reversed(theirs)}
        held = [
            [event["event_id"], event["session_id"]]
            for place, event in enumerate(theirs)
            if place < config.sequences.max_events or event["event_id"] in last.values()
        ]
        found.append([customer, len(theirs), len(theirs), held])
    return sorted(found)


def shown_states(states: DataFrame) -> list[Any]:
    rows = states.select("customer_id", "num_events", "event_keys", "newest").collect()
    return sorted(
        [row[0], row[1], len(set(row[2])), [[event["event_id"], event["session_id"]] for event in row[3]]]
        for row in rows
    )


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("max_events", [4, pytest.param(64, marks=pytest.mark.slow)])
def test_f60_f61_f62_arrivals_of_every_kind_give_what_a_full_build_gives(
    spark: SparkSession, tmp_path: Path, max_events: int
) -> None:
    world = World(spark, tmp_path, seed=1, sequences={"max_events": max_events})
    config = world.config()
    build_events(spark, config, AS_OF)
    assert world.found() == world.expected()

    def refreshed() -> str:
        text = "; ".join(refresh_events(spark, config, AS_OF).notes)
        assert world.found() == world.expected()
        assert states_found(spark, config) == states_of_events(spark, config)
        return text

    before = table_version(spark, event_contract(config), config.root)
    assert refreshed() == "nothing arrived"
    assert table_version(spark, event_contract(config), config.root) == before

    world.new_orders()
    world.new_views()
    world.new_payments()
    world.new_accounts()
    assert "orders: 13 rows read" in refreshed()

    world.repeated_orders()
    assert "orders: 5 rows read = 0 taken" in refreshed()

    world.corrected_payment()
    world.deleted_payments()
    world.orders_of_other_columns()
    world.unreadable_accounts()
    assert "accounts: 1 rows read = 0 taken + 0 duplicate + 1 rejected (unreadable_file 1)" in refreshed()

    world.rewritten_file()
    assert "every customer was compared: sources.orders: 1 files were changed or removed" in refreshed()
    assert not build_events(spark, config, AS_OF).changed

    # Changes that are no longer kept, and a table that is another one.
    world.corrected_payment()
    world.vacuumed_payments()
    with pytest.raises(UnsafeError, match=r"vacuumed.*--compare-all"):
        refresh_events(spark, config, AS_OF)
    refresh_events(spark, config, AS_OF, compare_all=True)
    assert world.found() == world.expected()
    world.replaced_payments()
    with pytest.raises(UnsafeError, match="another one"):
        refresh_events(spark, config, AS_OF)
