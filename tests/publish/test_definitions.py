"""Definitions of the published tables for other systems: their text, and what Spark makes of it."""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import ConfigError
from caspr_spark.publish.definitions import databricks_sql, delta_ddl, feast_definition
from caspr_spark.reader import read_run
from caspr_spark.tables import read_table, table_path
from pipelines.publish_embeddings import publish_embeddings
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS

GOLDEN = Path(__file__).parents[1] / "golden" / "definitions"
ROOT = '/data/bob\'s "shop" \\ `x` {y}'
WRITERS: dict[str, Callable[[], str]] = {
    "feast.py.txt": lambda: feast_definition(ROOT),
    "databricks.sql": lambda: databricks_sql(ROOT, schema="main.features"),
    "databricks_existing.sql": lambda: databricks_sql(ROOT, schema="main.features", existing=True),
    "ddl.sql": lambda: delta_ddl(ROOT, schema="features"),
    "ddl_existing.sql": lambda: delta_ddl(ROOT, schema="features", existing=True),
}
ODD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@pytest.mark.parametrize("name", WRITERS)
def test_definitions_are_the_golden_ones(name: str) -> None:
    assert WRITERS[name]() == (GOLDEN / name).read_text(encoding="utf-8")


def test_keys_are_declared_as_databricks_expects_them() -> None:
    for sql in (WRITERS["databricks.sql"](), WRITERS["databricks_existing.sql"]()):
        assert re.findall(r"PRIMARY KEY \(.*\)", sql) == [
            "PRIMARY KEY (`customer_id`, `as_of` TIMESERIES)",
            "PRIMARY KEY (`customer_id`)",
        ]


@given(ODD)
def test_f92_a_root_of_any_characters_stays_one_python_text(folder: str) -> None:
    tree = ast.parse(feast_definition(f"/{folder}"))
    (path,) = [
        keyword.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "path" and isinstance(keyword.value, ast.Constant)
    ]
    assert path == str(Path(f"/{folder}") / "customer_embedding_history")


def test_f92_a_root_of_any_characters_stays_one_sql_text(spark: SparkSession) -> None:
    root = "/it's '; drop table x; -- \" \\' \\\\ \n \t ä 🙂 `x` ${y} %41"
    sql = delta_ddl(root, schema="features", existing=True)
    literals = [text.removesuffix(";") for text in re.findall(r"LOCATION (.*?)(?=\nCOMMENT)", sql, re.DOTALL)]
    assert len(literals) == 2
    found = spark.sql("select " + ", ".join(literals)).collect()[0]
    assert list(found) == [f"{root}/customer_embedding_history", f"{root}/customer_embeddings"]


@pytest.mark.parametrize(
    "schema", ["", "a.b.c", "a b", "a`.`b", "a;drop table x", "a'", "ä", "a.", "a\n", "a/b", "../a"]
)
@pytest.mark.parametrize("write", [delta_ddl, databricks_sql])
def test_f92_a_schema_that_is_no_name_is_refused(write: Any, schema: str) -> None:
    with pytest.raises(ConfigError, match=r"expected SCHEMA or CATALOG\.SCHEMA"):
        write("/data", schema=schema)


def test_a_relative_root_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected an absolute path, .*found 'data/shop'"):
        feast_definition("data/shop")
    assert '"s3://bucket/shop/customer_embedding_history"' in feast_definition("s3://bucket/shop/")


@pytest.fixture
def run_sql(spark: SparkSession) -> Any:
    """Runs a script in a schema of its own, which is dropped at the end; the files stay."""
    spark.sql("create schema definitions")

    def run(script: str) -> None:
        for statement in re.split(r";$", script, flags=re.MULTILINE):
            if statement.strip():
                spark.sql(statement)

    yield run
    spark.sql("drop schema definitions cascade")


def test_tables_of_the_ddl_are_filled_by_the_publisher(
    spark: SparkSession, config: Config, embed: Any, run_sql: Any
) -> None:
    script = delta_ddl(config.root, schema="definitions")
    run_sql(script)
    run_sql(script)  # changes nothing
    assert publish_embeddings(spark, config, embed({"ann": (1, 0), "bob": (0.5, -1)}, day=1, run_id="r1")).changed
    for contract in (CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS):
        assert spark.table(f"definitions.{contract.name}").count() == 2
    assert read_run(config.root, "r1").column("embedding").to_pylist() == [[1, 0], [0.5, -1]]
    for contract in (CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS):
        detail = DeltaTable.forPath(spark, table_path(contract, config.root)).detail().collect()[0]
        assert (detail["minReaderVersion"], detail["properties"]["delta.enableDeletionVectors"]) == (1, "false")


def test_databricks_sql_differs_from_the_ddl_by_its_keys_alone() -> None:
    def without_keys(sql: str) -> str:
        return re.sub(
            r"(,\n  CONSTRAINT .*)|(^--.*\n)|(^ALTER .* (SET NOT NULL|PRIMARY KEY \(.*\));\n)", "", sql, flags=re.M
        )

    for existing in (False, True):
        ours = without_keys(delta_ddl("/data", schema="main.features", existing=existing))
        assert without_keys(databricks_sql("/data", schema="main.features", existing=existing)) == ours


@pytest.mark.slow
def test_tables_that_are_there_are_registered_and_described(
    spark: SparkSession, twice_published: Config, embed: Any, run_sql: Any
) -> None:
    before = read_table(spark, CUSTOMER_EMBEDDINGS, twice_published.root).collect()
    script = delta_ddl(twice_published.root, schema="definitions", existing=True)
    run_sql(script)
    run_sql(script)
    table = spark.table("definitions.customer_embeddings")
    assert sorted(table.collect()) == sorted(before)
    comments = [field.metadata["comment"] for field in table.schema.fields]
    assert comments == [column.meaning for column in CUSTOMER_EMBEDDINGS.columns]
    # and the publisher goes on as before
    as_of = embed({"ann": (7, 7), "eve": (1, 2)}, day=3, run_id="r3")
    assert publish_embeddings(spark, twice_published, as_of).changed
    assert not publish_embeddings(spark, twice_published, as_of).changed
    assert spark.table("definitions.customer_embeddings").where("run_id = 'r3'").count() == 2
