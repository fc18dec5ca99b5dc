"""The same rows in every declared format give the same events."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.config_file import load_config
from caspr_spark.errors import ConfigError
from caspr_spark.session import local_frame
from caspr_spark.tables import read_table
from pipelines.build_events import build_events
from pipelines.contracts import event_contract

AS_OF = datetime(2024, 2, 1, tzinfo=UTC)
EXPECTED = [
    ("ann", "2024-01-02 10:00:00", "visits:ann/1", 3.5, "red"),
    ("bob", "2024-01-03 11:30:00", "visits:bob/2", -1.0, None),
]
OVERLAY = """
dataset: formats
root: {root}
sources:
  visits:
    {table}
    entity: WHO
    time: {{column: AT, zone: UTC}}
    key: [NUMBER]
    attributes:
      amount: {{kind: numerical, column: AMOUNT}}
      colour: {{kind: categorical, column: COLOUR}}
"""
Built = Callable[[str], list[tuple[object, ...]]]


@pytest.fixture
def raw(spark: SparkSession) -> DataFrame:
    rows = [(1, "ann", "2024-01-02 10:00:00", 3.5, "red"), (2, "bob", "2024-01-03 11:30:00", -1.0, None)]
    return local_frame(spark, rows, "NUMBER int, WHO string, AT string, AMOUNT double, COLOUR string")


@pytest.fixture
def built(spark: SparkSession, tmp_path: Path) -> Built:
    """The table's lines of the overlay -> the events."""

    def build(table: str) -> list[tuple[object, ...]]:
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text(OVERLAY.format(root=tmp_path / "root", table=table))
        config = load_config([overlay])
        build_events(spark, config, AS_OF)
        events = read_table(spark, event_contract(config), config.root)
        shown = events.selectExpr("customer_id", "cast(event_time as string)", "event_id", "amount", "colour")
        return [tuple(row) for row in shown.orderBy("event_id").collect()]

    return build


@pytest.mark.parametrize("file_format", ["csv", "json", "parquet", "delta"])
def test_files_of_every_format_give_the_same_events(
    raw: DataFrame, built: Built, tmp_path: Path, file_format: str
) -> None:
    path = str(tmp_path / "raw")
    writer = raw.write.format(file_format)
    (writer.option("header", "true") if file_format == "csv" else writer).save(path)
    assert built(f"format: {file_format}\n    path: {path}") == EXPECTED


def test_a_catalog_table_gives_the_same_events(raw: DataFrame, built: Built, spark: SparkSession) -> None:
    raw.createOrReplaceTempView("visits_of_the_catalog")
    try:
        assert built("format: table\n    path: visits_of_the_catalog") == EXPECTED
    finally:
        spark.catalog.dropTempView("visits_of_the_catalog")


def test_a_jdbc_table_whose_url_comes_from_the_environment_gives_the_same_events(
    raw: DataFrame, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "jdbc:derby:memory:visits;create=true"  # in the memory of Spark's JVM; Spark brings the database along
    raw.write.format("jdbc").option("url", url).option("dbtable", "VISITS").mode("overwrite").save()
    monkeypatch.setenv("VISITS_URL", url)
    assert built('format: jdbc\n    options: {url: "${VISITS_URL}", dbtable: VISITS}') == EXPECTED


def test_a_missing_environment_variable_is_named(built: Built) -> None:
    with pytest.raises(ConfigError, match=r"sources\.visits\.options\.url: the environment variable NOT_SET_ANYWHERE"):
        built('format: jdbc\n    options: {url: "${NOT_SET_ANYWHERE}", dbtable: VISITS}')


def test_a_missing_file_and_a_missing_package_are_named(built: Built, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sources\.visits: cannot open .*no_such_file"):
        built(f"format: parquet\n    path: {tmp_path / 'no_such_file.parquet'}")
    with pytest.raises(ConfigError, match=r"sources\.visits\.path: the Python package 'no_such_package' is not"):
        built("format: parquet\n    path: package://no_such_package/a.parquet")
