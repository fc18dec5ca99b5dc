"""Publishing: what readers see after runs in any order, repeated, refused."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import CasprError, GateError
from caspr_spark.tables import read_table, table_path
from pipelines.publish_embeddings import PUBLISHED, publish_embeddings
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS

FIRST = {"ann": (1, 0), "bob": (0, 1)}
SECOND = {"ann": (3, 4), "cid": (5, 0)}


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


def test_second_run_replaces_what_it_holds_and_keeps_the_rest(spark: SparkSession, config: Config, embed: Any) -> None:
    publish_embeddings(spark, config, embed(FIRST, day=1, run_id="r1"))
    summary = publish_embeddings(spark, config, embed(SECOND, day=2, run_id="r2"))
    assert (summary.rows_in, summary.rows_out, summary.changed) == (2, 2, True)
    assert served(spark, config) == {"ann": ((3, 4), "r2"), "bob": ((0, 1), "r1"), "cid": ((5, 0), "r2")}
    assert recorded(spark, config) == [("r1", "ann"), ("r1", "bob"), ("r2", "ann"), ("r2", "cid")]


def test_f02_same_run_again_commits_nothing(spark: SparkSession, config: Config, embed: Any) -> None:
    as_of = embed(FIRST, day=1, run_id="r1")
    assert publish_embeddings(spark, config, as_of).changed
    before = versions(spark, config)
    embed(FIRST, day=1, run_id="r1")
    assert not publish_embeddings(spark, config, as_of).changed
    assert versions(spark, config) == before


def test_run_published_before_is_unchanged_when_embeddings_hold_a_later_one(
    spark: SparkSession, config: Config, embed: Any
) -> None:
    first = embed(FIRST, day=1, run_id="r1")
    publish_embeddings(spark, config, first)
    publish_embeddings(spark, config, embed(SECOND, day=2, run_id="r2"))
    before = versions(spark, config)
    assert not publish_embeddings(spark, config, first).changed
    assert versions(spark, config) == before


def test_f22_older_as_of_never_overwrites_in_any_order(spark: SparkSession, config: Config, embed: Any) -> None:
    runs = {1: {"ann": (1, 1), "bob": (1, 2)}, 2: {"ann": (2, 1), "cid": (2, 3)}, 3: {"bob": (3, 2)}}
    expected = {"ann": ((2, 1), "r2"), "bob": ((3, 2), "r3"), "cid": ((2, 3), "r2")}
    for number, order in enumerate([(3, 2, 1), (2, 3, 1)]):
        case = config.model_copy(update={"root": f"{config.root}/{number}"})
        for day in order:
            _publish_below(spark, config, case, embed, runs[day], day)
        assert served(spark, case) == expected, order


@pytest.mark.slow
def test_f21_newest_as_of_wins_in_every_order(spark: SparkSession, config: Config, embed: Any) -> None:
    runs = {1: {"ann": (1, 1), "bob": (1, 2)}, 2: {"ann": (2, 1), "cid": (2, 3)}, 3: {"bob": (3, 2)}}
    expected = {"ann": ((2, 1), "r2"), "bob": ((3, 2), "r3"), "cid": ((2, 3), "r2")}
    for number, order in enumerate(permutations(runs)):
        case = config.model_copy(update={"root": f"{config.root}/{number}"})
        for day in order:
            _publish_below(spark, config, case, embed, runs[day], day)
        assert served(spark, case) == expected, order


def _publish_below(spark: SparkSession, config: Config, case: Config, embed: Any, vectors: Any, day: int) -> None:
    """Publish a run below another root: `embeddings` and the manifest are written below the first and linked."""
    as_of = embed(vectors, day=day, run_id=f"r{day}")
    Path(case.root).mkdir(parents=True, exist_ok=True)
    for name in ("embeddings", "sequences"):
        link = Path(case.root) / name
        if not link.exists():
            link.symlink_to(Path(config.root) / name)
    assert publish_embeddings(spark, case, as_of).changed


def test_same_as_of_with_other_inputs_replaces(spark: SparkSession, config: Config, embed: Any) -> None:
    publish_embeddings(spark, config, embed(FIRST, day=1, run_id="r9"))
    publish_embeddings(spark, config, embed(SECOND, day=1, run_id="r1"))
    assert served(spark, config) == {"ann": ((3, 4), "r1"), "bob": ((0, 1), "r9"), "cid": ((5, 0), "r1")}


def test_f70_unfit_run_is_refused_by_name_and_the_old_one_is_served(
    spark: SparkSession, config: Config, embed: Any
) -> None:
    publish_embeddings(spark, config, embed(FIRST, day=1, run_id="r1"))
    before = versions(spark, config)
    nan, infinity = float("nan"), float("inf")
    unfit = {
        "vector_finite": ({"ann": (1, nan), "bob": (infinity, 1)}, None),
        "vector_size": ({"ann": (1, 2, 3), "bob": (1, 2)}, None),
        "vector_not_zero": ({"ann": (0, 0)}, None),
        "vector_varies": ({"ann": (1, 2), "bob": (1, 2)}, None),
        "rows_complete": (SECOND, 3),
    }
    for check, (vectors, promised) in unfit.items():
        as_of = embed(vectors, day=2, run_id="r2", promised=promised)
        with pytest.raises(GateError, match=check):
            publish_embeddings(spark, config, as_of)
    assert versions(spark, config) == before


def test_run_of_another_as_of_is_an_error(spark: SparkSession, config: Config, embed: Any) -> None:
    publish_embeddings(spark, config, embed(FIRST, day=1, run_id="r1"))
    never_embedded = embed(FIRST, day=3, run_id="r3").replace(day=2)
    with pytest.raises(CasprError, match="expected the run as of 2017-10-02"):
        publish_embeddings(spark, config, never_embedded)
