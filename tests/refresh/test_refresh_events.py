"""Whatever arrives, `events`, `profiles` and `rejected` are what a build from all raw rows would give."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from caspr_spark.errors import UnsafeError
from caspr_spark.tables import table_version
from pipelines.build_events import build_events, event_contract, refresh_events
from tests.events.cases import AS_OF
from tests.refresh.world import World


def test_f60_f61_f62_arrivals_of_every_kind_give_what_a_full_build_gives(spark: SparkSession, tmp_path: Path) -> None:
    world = World(spark, tmp_path, seed=1)
    config = world.config()
    build_events(spark, config, AS_OF)
    assert world.found() == world.expected()

    def refreshed() -> str:
        text = "; ".join(refresh_events(spark, config, AS_OF).notes)
        assert world.found() == world.expected()
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
    refreshed()

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
