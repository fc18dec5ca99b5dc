"""Publishing: what readers see after runs in any order, repeated, refused."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import permutations
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import CasprError, GateError
from caspr_spark.runs import mend_runs
from caspr_spark.tables import read_table, table_path
from pipelines.publish_embeddings import publish_embeddings
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, PUBLISHED
from schemas.runs import RUNS

FIRST_DAY, SECOND_DAY = (datetime(2017, 10, day, tzinfo=UTC) for day in (1, 2))


def served(spark: SparkSession, config: Config) -> dict[str, tuple[tuple[float, ...], str]]:
    rows = read_table(spark, CUSTOMER_EMBEDDINGS, config.root).collect()
    assert len({row["customer_id"] for row in rows}) == len(rows)
    return {row["customer_id"]: (tuple(row["embedding"]), row["run_id"]) for row in rows}


def recorded(spark: SparkSession, config: Config) -> list[tuple[str, str]]:
    rows = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, config.root).collect()
    return sorted((row["run_id"], row["customer_id"]) for row in rows)


def versions(spark: SparkSession, config: Config) -> list[Any]:
    tables = [DeltaTable.forPath(spark, table_path(contract, config.root)) for contract in PUBLISHED]
    return [table.history(1).collect()[0]["version"] for table in tables]


def test_second_run_replaces_what_it_holds_and_keeps_the_rest(spark: SparkSession, twice_published: Config) -> None:
    assert served(spark, twice_published) == {
        "ann": ((3, 4), "r2"),
        "bob": ((0.5, -1), "r1"),
        "çid 'x'": ((5, 0), "r2"),
    }
    assert recorded(spark, twice_published) == [("r1", "ann"), ("r1", "bob"), ("r2", "ann"), ("r2", "çid 'x'")]


@pytest.mark.parametrize("as_of", [SECOND_DAY, FIRST_DAY], ids=["in_embeddings", "in_history_alone"])
def test_f02_same_run_again_commits_nothing(spark: SparkSession, twice_published: Config, as_of: datetime) -> None:
    before = versions(spark, twice_published)
    summary = publish_embeddings(spark, twice_published, as_of)
    assert (summary.rows_in, summary.rows_out, summary.changed) == (2, 2, False)
    assert versions(spark, twice_published) == before


def publish_in(order: Sequence[int], spark: SparkSession, config: Config, embed: Any) -> dict[str, Any]:
    """What is served after runs as of these days of October were published in this order."""
    runs = {1: {"ann": (1, 1), "bob": (1, 2)}, 2: {"ann": (2, 1), "cid": (2, 3)}, 3: {"bob": (3, 2)}}
    for day in order:
        assert publish_embeddings(spark, config, embed(runs[day], day=day, run_id=f"r{day}")).changed
    return served(spark, config)


NEWEST_WINS = {"ann": ((2, 1), "r2"), "bob": ((3, 2), "r3"), "cid": ((2, 3), "r2")}


def test_f22_older_as_of_never_overwrites(spark: SparkSession, config: Config, embed: Any) -> None:
    assert publish_in([3, 2, 1], spark, config, embed) == NEWEST_WINS


@pytest.mark.slow
def test_f21_newest_as_of_wins_in_every_order(spark: SparkSession, config: Config, embed: Any) -> None:
    for order in permutations([1, 2, 3]):
        assert publish_in(order, spark, config, embed) == NEWEST_WINS, order
        shutil.rmtree(config.root)


def test_same_as_of_with_other_inputs_replaces(spark: SparkSession, once_published: Config, embed: Any) -> None:
    publish_embeddings(spark, once_published, embed({"ann": (7, 7), "cid": (5, 0)}, day=1, run_id="r0"))
    assert served(spark, once_published) == {"ann": ((7, 7), "r0"), "bob": ((0.5, -1), "r1"), "cid": ((5, 0), "r0")}


def test_f70_unfit_run_is_refused_by_name_and_the_old_one_is_served(
    spark: SparkSession, once_published: Config, embed: Any
) -> None:
    before = versions(spark, once_published)
    unfit = {
        "vector_finite": ({"ann": (1, float("nan")), "bob": (float("inf"), 1)}, None),
        "vector_size": ({"ann": (1, 2, 3), "bob": (1, 2)}, None),
        "rows_complete": ({"ann": (3, 4), "cid": (5, 0)}, 3),
    }
    for check, (vectors, promised) in unfit.items():
        as_of = embed(vectors, day=2, run_id="r2", promised=promised)
        with pytest.raises(GateError, match=check):
            publish_embeddings(spark, once_published, as_of)
    assert versions(spark, once_published) == before


def test_f04_a_run_that_was_published_but_not_recorded_is_recorded_by_the_next(
    spark: SparkSession, twice_published: Config
) -> None:
    def recorded_runs() -> list[tuple[Any, ...]]:
        return sorted(tuple(row) for row in read_table(spark, RUNS, twice_published.root).collect())

    before = recorded_runs()
    assert [run[0] for run in before] == ["r1", "r2"]
    shutil.rmtree(table_path(RUNS, twice_published.root))
    publish_embeddings(spark, twice_published, FIRST_DAY)  # finds all but the record
    assert mend_runs(spark, CUSTOMER_EMBEDDINGS, twice_published.root) == "r2"
    assert recorded_runs() == before
    assert mend_runs(spark, CUSTOMER_EMBEDDINGS, twice_published.root) is None


def test_run_of_another_as_of_is_an_error(spark: SparkSession, once_published: Config) -> None:
    with pytest.raises(CasprError, match="expected the run as of 2017-10-02"):
        publish_embeddings(spark, once_published, SECOND_DAY)
