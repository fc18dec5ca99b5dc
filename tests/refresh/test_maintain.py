"""Maintenance: small files are joined, those of killed writers go, and a refresh still knows what changed."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import CasprError
from pipelines.build_events import build_events
from pipelines.maintain import maintain
from pipelines.refresh_events import refresh_events
from tests.events.cases import AS_OF, config_of
from tests.refresh.world import World

SHOP = Path(__file__).parents[2] / "docs" / "example" / "shop.yaml"


def maintain_long_after(spark: SparkSession, config: Config) -> None:
    """Maintenance when all that the newest versions of the tables do not need is older than the retention."""
    section = config.maintain.model_copy(update={"retention_hours": 0})
    unchecked = "spark.databricks.delta.retentionDurationCheck.enabled"
    spark.conf.set(unchecked, "false")
    try:
        maintain(spark, config.model_copy(update={"maintain": section}))
    finally:
        spark.conf.unset(unchecked)


def refreshed_world(spark: SparkSession, tmp_path: Path) -> tuple[World, Config]:
    """A world whose events were built, and refreshed once."""
    world = World(spark, tmp_path, seed=5)
    config = world.config()
    build_events(spark, config, AS_OF)
    world.new_payments()
    refresh_events(spark, config, AS_OF)
    return world, config


@pytest.mark.slow
def test_f14_orphans_go_and_the_tables_stay_as_they_were(spark: SparkSession, tmp_path: Path) -> None:
    world, config = refreshed_world(spark, tmp_path)
    events = Path(config.root) / "events"
    orphan = events / "part-00099-killed.snappy.parquet"
    shutil.copy(next(events.glob("part-*.parquet")), orphan)
    long_ago = (AS_OF - timedelta(days=100)).timestamp()
    os.utime(orphan, (long_ago, long_ago))
    for number in range(10):
        (Path(config.root) / "sequences" / f"202401{number + 10}T000000Z").mkdir(parents=True)

    assert maintain(spark, config).changed
    assert not orphan.exists()
    assert world.found() == world.expected()
    assert len(list((Path(config.root) / "sequences").iterdir())) == config.maintain.keep_sequences
    assert not maintain(spark, config).changed

    world.new_orders()
    refresh_events(spark, config, AS_OF)
    assert world.found() == world.expected()


@pytest.mark.slow
def test_f64_a_refresh_after_a_pause_that_was_longer_than_the_retention(spark: SparkSession, tmp_path: Path) -> None:
    """Maintenance has joined the states' files and removed those that the newest commit of `events` speaks of."""
    world, config = refreshed_world(spark, tmp_path)
    maintain_long_after(spark, config)

    world.new_orders()
    refresh_events(spark, config, AS_OF)
    assert world.found() == world.expected()


def test_events_cannot_be_refreshed_before_they_were_built(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(CasprError, match="run full-build first"):
        refresh_events(spark, World(spark, tmp_path, seed=5).config(), AS_OF)


def test_f93_nothing_is_deleted_through_a_link(spark: SparkSession, tmp_path: Path) -> None:
    config = config_of(tmp_path, SHOP)
    root, elsewhere = Path(config.root), tmp_path / "elsewhere"
    for place in (elsewhere, root / "sequences", root / "checkpoints"):
        place.mkdir(parents=True)
    for name in ("checkpoint.json", "weights.safetensors"):
        (elsewhere / name).write_text("{}")
    for number in range(config.maintain.keep_sequences + 1):
        (root / "sequences" / f"202401{number + 10}T000000Z").symlink_to(elsewhere)
    for number in range(config.maintain.keep_models + 1):
        (root / "checkpoints" / f"m{number}").symlink_to(elsewhere)

    maintain(spark, config)
    assert sorted(path.name for path in elsewhere.iterdir()) == ["checkpoint.json", "weights.safetensors"]
