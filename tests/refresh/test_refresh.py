"""Refresh, from raw tables to readers: every published vector is the one that a full build as of its time gives."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.runs import run_before
from caspr_spark.tables import table_version
from pipelines.backfill import missing_intervals
from pipelines.full_build import full_build
from pipelines.plan_refresh import plan_refresh
from pipelines.published_runs import run_numbers, run_table
from pipelines.refresh import refresh
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS
from schemas.runs import RUNS
from tests.refresh.full_builds import FullBuilds, assert_as_built, served
from tests.refresh.world import START, World

SECTIONS: dict[str, Any] = {
    "sequences": {"max_events": 6, "min_count": 2, "customers_per_row_group": 10, "validation_share": 0.3},
    "model": {
        "embedding_size": 4,
        "width": 8,
        "num_heads": 2,
        "feed_forward": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
    },
    "pretrain": {"max_epochs": 1, "batch_size": 8},
    "monitor": {"min_customers": 1000},
    "refresh": {"max_age_days": 10},
}
FIRST = START + timedelta(days=30)


@pytest.fixture
def built(spark: SparkSession, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[World, Config]:
    """A shop whose first run, as of FIRST, is published."""
    world = World(spark, tmp_path, seed=request.param, **SECTIONS)
    full_build(spark, world.config(), [FIRST])
    return world, world.config()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("built", [3], indirect=True)
def test_f35_f60_f63_a_refresh_is_as_good_as_a_full_build(spark: SparkSession, built: tuple[World, Config]) -> None:
    world, config = built
    model = champion_of(config.root)

    # Time goes on and rows of any age arrive; one customer vanishes.
    world.new_views()
    world.deleted_payments()
    world.remove_customer("c7")
    second = FIRST + timedelta(days=1)
    summaries = refresh(spark, config, second)
    assert [summary.step for summary in summaries] == ["events", "sequences", "embed", "publish", "monitor"]
    assert world.found() == world.expected()
    latest = served(config)
    builds = FullBuilds(spark, config, world.folder / "whole")
    assert latest.keys() == builds.vectors(second).keys()
    assert_as_built(latest, builds)
    assert "c7" not in latest
    run = run_before(spark, config.root, as_of=second, model_version=model)
    assert run is not None
    assert (run.as_of, run.kind, run.num_removed) == (second, "refresh", 1)
    touched = read_manifest(sequences_folder(config.root, second)).rows
    assert 0 < touched == run.num_customers < len(latest)

    # What would come next, and which days have no run.
    third = second + timedelta(days=12)
    plan = plan_refresh(spark, config, third)
    assert plan.notes[0].startswith(f"from {second.isoformat()} (run {run.run_id}) to {third.isoformat()}")
    assert plan.notes[-1] == f"{plan.rows_out:,} customers would be looked at"
    assert plan.rows_out > 0
    assert missing_intervals(spark, config, FIRST, FIRST + timedelta(days=2), every=timedelta(days=1)) == [
        FIRST + timedelta(days=2)
    ]
    assert run_table(spark, config)["run_id"][0] == run.run_id
    assert ("num_removed", "1") in run_numbers(spark, config, run.run_id).itertuples(index=False, name=None)

    # The same interval again does nothing, and says so.
    tables = (CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, RUNS)
    before = [table_version(spark, contract, config.root) for contract in tables]
    again = refresh(spark, config, second)
    assert not any(summary.changed for summary in again)
    assert again[-1].notes == ("no customer was touched: nothing to do",)
    assert [table_version(spark, contract, config.root) for contract in tables] == before

    # Another customer vanishes and nothing else happens.
    others = {customer: found for customer, found in served(config).items() if customer != "c6"}
    world.remove_customer("c6")
    assert refresh(spark, config, second)[3].notes == ("1 customers without any event removed",)
    assert served(config) == others


def test_refresh_without_a_full_build_says_what_to_do(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"full-build|pretrain") as error:
        refresh(spark, World(spark, tmp_path, seed=1).config(), FIRST)
    assert not isinstance(error.value, (KeyError, FileNotFoundError))
