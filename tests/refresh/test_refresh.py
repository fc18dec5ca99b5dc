"""Refresh, from raw tables to readers: every published vector is the one that a full build as of its time gives."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.registry import checkpoints_folder
from caspr_spark.runs import run_before
from caspr_spark.tables import read_table, table_path, table_version
from pipelines.backfill import missing_intervals
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.embed_customers import embed_customers
from pipelines.full_build import full_build
from pipelines.plan_refresh import plan_refresh
from pipelines.published_runs import run_numbers, run_table
from pipelines.refresh import refresh
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, EMBEDDINGS
from schemas.runs import RUNS
from schemas.vocabulary import SCALING, VOCABULARY
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


def served(spark: SparkSession, config: Config) -> dict[str, tuple[datetime, list[float]]]:
    table = read_table(spark, CUSTOMER_EMBEDDINGS, config.root)
    rows = table.select("customer_id", F.unix_seconds("as_of").alias("as_of"), "embedding").collect()
    assert len({row["customer_id"] for row in rows}) == len(rows)
    return {row["customer_id"]: (row["as_of"], row["embedding"]) for row in rows}


def fully_built(spark: SparkSession, config: Config, as_of: datetime, folder: Path) -> dict[str, Any]:
    """Every customer's vector as of a time by the same model, from all raw rows at once; customer -> sequence too."""
    shutil.rmtree(folder, ignore_errors=True)
    for contract in (VOCABULARY, SCALING):
        shutil.copytree(table_path(contract, config.root), folder / contract.name)
    shutil.copytree(checkpoints_folder(Path(config.root)), checkpoints_folder(folder))
    other = config.model_copy(update={"root": str(folder)})
    build_events(spark, other, as_of)
    build_sequences(spark, other, as_of, fit_vocabulary=False)
    embed_customers(spark, other, as_of)
    rows = read_table(spark, EMBEDDINGS, other.root).collect()
    return {row["customer_id"]: row["embedding"] for row in rows}


def assert_equal_to_full_builds(spark: SparkSession, world: World, config: Config) -> None:
    """Events and vectors equal full builds over everything; whoever has events has a vector."""
    assert world.found() == world.expected()
    found = served(spark, config)
    for seconds in sorted({as_of for as_of, _ in found.values()}):
        as_of = datetime.fromtimestamp(seconds, tz=START.tzinfo)
        wanted = fully_built(spark, config, as_of, world.folder / "oracle")
        for customer, (time, vector) in found.items():
            if time == seconds:
                np.testing.assert_allclose(vector, wanted[customer], atol=1e-5, err_msg=customer)
    assert found.keys() == wanted.keys()


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
    assert_equal_to_full_builds(spark, world, config)
    assert "c7" not in served(spark, config)
    run = run_before(spark, config.root, as_of=second, model_version=model)
    assert run is not None
    assert (run.as_of, run.kind, run.num_removed) == (second, "refresh", 1)
    touched = read_manifest(sequences_folder(config.root, second)).rows
    assert 0 < touched == run.num_customers < len(served(spark, config))

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
    others = {customer: found for customer, found in served(spark, config).items() if customer != "c6"}
    world.remove_customer("c6")
    assert refresh(spark, config, second)[3].notes == ("1 customers without any event removed",)
    assert served(spark, config) == others


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("built", [1, 2], indirect=True)
def test_f60_f64_random_changes(spark: SparkSession, built: tuple[World, Config]) -> None:
    """A random walk over changes and refreshes; late ones, missed ones, and ones of an interval that was finished."""
    world, config = built
    as_of = FIRST
    for _ in range(5):
        for change in world.random.sample(world.changes, world.random.randrange(4)):
            change()
        as_of += timedelta(days=world.random.choice([0, 1, 4, 12]))
        refresh(spark, config, as_of, compare_all=world.random.random() < 0.1)
        assert_equal_to_full_builds(spark, world, config)


def test_refresh_without_a_full_build_says_what_to_do(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"full-build|pretrain") as error:
        refresh(spark, World(spark, tmp_path, seed=1).config(), FIRST)
    assert not isinstance(error.value, (KeyError, FileNotFoundError))
