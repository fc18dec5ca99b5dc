"""The whole page, from the small lake of 120 customers on which monitor and report are tested."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import CasprError, ConfigError
from pipelines.explore_embeddings import exploration_file, explore_embeddings
from tests.evaluate.published_lake import SECOND, published_lake


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return published_lake(spark, tmp_path_factory.mktemp("lake"))


def test_the_page_is_written_once_and_names_listed_customers_only_as_unknown(
    spark: SparkSession,
    lake: Config,
) -> None:
    place = exploration_file(lake.root, SECOND, "m1")
    listed = ["c000", "c001", "c002", "gone"]

    def explored() -> tuple[bool, tuple[str, ...]]:
        found = explore_embeddings(spark, lake, SECOND, model_version="m1", num_segments=2, customers=listed, out=place)
        assert (found.rows_in, found.rows_out) == (120, 1)
        return found.changed, found.notes

    note = "warning: 1 of 4 listed customers have no vector in this run: gone"
    assert explored() == (True, (note,))
    html = place.read_text()
    # the first 40 customers' vectors are at a right angle to the others'
    assert re.findall(r"<h3>Segment (\d): (\d+) customers", html) == [("1", "80"), ("2", "40")]
    assert html.count('<img src="data:image/') == 1
    assert "<script" not in html
    assert "&lt;script&gt;" in html or "t0" in html
    named = re.findall(r"<tr><td>(c\d{3})</td>", html)
    assert len(named) == 20
    assert set(named) <= {f"c{number:03}" for number in range(3, 40)}
    assert explored() == (False, (note,))
    assert place.read_text() == html


def test_few_customers_for_the_segments_are_said(spark: SparkSession, lake: Config, tmp_path: Path) -> None:
    found = explore_embeddings(
        spark, lake, SECOND, model_version="m1", num_segments=121, customers=None, out=tmp_path / "page.html"
    )
    (note,) = found.notes
    assert note.startswith("No segments: 121 were asked for, and the 120 customers have fewer different vectors")
    assert note in (tmp_path / "page.html").read_text()


def test_unpublished_times_and_bad_places_are_errors(spark: SparkSession, lake: Config, tmp_path: Path) -> None:
    never = datetime(2017, 1, 1, tzinfo=UTC)
    with pytest.raises(CasprError, match="no run of model m1 as of 2017-01-01"):
        explore_embeddings(spark, lake, never, model_version="m1", num_segments=2, customers=None, out=tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the page cannot be written"):
        explore_embeddings(
            spark, lake, SECOND, model_version="m1", num_segments=2, customers=None, out=tmp_path / "file" / "x.html"
        )
