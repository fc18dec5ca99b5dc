"""Raw files that differ in their columns: what is read, what is said of it, and what stops the run."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import SchemaError
from caspr_spark.events.activities import activities
from caspr_spark.events.sources import judged_tables
from pipelines.build_events import build_events
from tests.events.cases import AS_OF, LENIENT, config_of, visits

CSV = "id,customer,at,amount\n1,ann,2024-01-01T10:00:00Z,1.5\n"


def config_for(folder: Path, **changes: Any) -> Config:
    """One source, visits: the CSV files of the folder `raw`."""
    return config_of(folder, LENIENT, sources={"visits": visits(folder / "raw", **changes)})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The folder of raw files; the first is there."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "first.csv").write_text(CSV)
    return tmp_path / "raw"


def taken(spark: SparkSession, config: Config, *columns: str) -> list[tuple[Any, ...]]:
    rows = judged_tables(spark, config)["visits"].rows.where("ending is null").selectExpr("customer_id", *columns)
    return sorted(tuple(row) for row in rows.collect())


def test_f33_f42_csv_files_are_read_by_the_names_in_their_headers(
    spark: SparkSession, tmp_path: Path, raw: Path
) -> None:
    (raw / "of another order [1].csv").write_text("amount,at,customer,id\n2.5,2024-01-01T10:00:00Z,bob,2\n")
    (raw / "windows.csv").write_bytes(b"\xef\xbb\xbfid,customer,at,amount\r\n3,cid,2024-01-01T10:00:00Z,3.5\r\n")
    (raw / "quoted.csv").write_text('"customer","utm","id","at","amount"\n"dan, jr","x","4",2024-01-01T10:00:00Z,4.5\n')
    with gzip.open(raw / "longer.csv.gz", "wt") as file:
        file.write("\nid,customer,at,amount,utm\n5,eve,2024-01-01T10:00:00Z,5.5,y\n")

    found = taken(spark, config_for(tmp_path), "amount", "raw_row.id", "raw_row.utm", "corrupt_record")

    assert found == [
        ("ann", 1.5, "1", None, None),
        ("bob", 2.5, "2", None, None),
        ("cid", 3.5, "3", None, None),
        ("dan, jr", 4.5, "4", "x", None),
        ("eve", 5.5, "5", "y", None),
    ]


def test_the_options_of_the_reader_hold_for_files_that_differ(spark: SparkSession, tmp_path: Path) -> None:
    day = tmp_path / "raw" / "day=2024-01-01"
    day.mkdir(parents=True)
    (day / "a.csv").write_text("# a comment\nid;customer;amount\n1;ann;1\n")
    (day / "b.csv").write_text("customer;id;amount\nbob;2;2.5\n")
    (day / "notes.txt").write_text("no table\n")
    options = {"SEP": ";", "comment": "#", "inferSchema": "true", "pathGlobFilter": "*.csv"}
    config = config_for(tmp_path, options=options, time={"column": "day", "zone": "UTC"})

    found = taken(spark, config, "amount", "typeof(raw_row.amount)", "cast(event_time as string)")

    assert found == [("ann", 1.0, "double", "2024-01-01 00:00:00"), ("bob", 2.5, "double", "2024-01-01 00:00:00")]


def test_csv_files_without_header_may_have_more_columns(spark: SparkSession, tmp_path: Path, raw: Path) -> None:
    (raw / "first.csv").write_text("1,ann,2024-01-01T10:00:00Z\n")
    (raw / "longer.csv").write_text("2,bob,2024-01-01T10:00:00Z,2.5\n")
    attributes = {"amount": {"kind": "numerical", "expression": "try_cast(_c3 as double)"}}
    changes = {"entity": "_c1", "time": {"column": "_c2"}, "key": ["_c0"], "attributes": attributes}

    found = taken(spark, config_for(tmp_path, options={"header": "false"}, **changes), "amount")

    assert found == [("ann", None), ("bob", 2.5)]


def test_a_row_keeps_its_id_whatever_files_are_read_with_it(spark: SparkSession, tmp_path: Path, raw: Path) -> None:
    config = config_for(tmp_path, key=[])

    def event_ids() -> list[str]:
        source, rows = config.sources["visits"], judged_tables(spark, config)["visits"].rows.where("ending is null")
        found = activities(rows, source="visits", key=source.key, group=source.group, attributes=source.attributes)
        return sorted(row["event_id"] for row in found.collect())

    alone = event_ids()
    (raw / "0.csv").write_text("amount,at,customer,basket,id\n1.5,2024-01-01T10:00:00Z,ann,,1\n")  # the same row
    (raw / "1.csv").write_text("amount,at,aisle,customer,id\n1.5,2024-01-01T10:00:00Z,7,ann,1\n")

    together = event_ids()
    assert len(together) == 2
    assert alone[0] in together


@pytest.mark.parametrize(
    ("header", "text"),
    [
        pytest.param(
            "id,customer,at,price",
            "sources.visits.attributes.amount: column 'amount' is not in 1 of the files, e.g. {file} "
            "(it has: id, customer, at, price)",
            id="f32_f34_renamed",
        ),
        pytest.param("id;customer;at;amount", "(it has: id;customer;at;amount)", id="f42_wrong_separator"),
        pytest.param(
            "id,customer,at,Amount", "column 'amount' (file:{folder}/first.csv) is 'Amount' in {file}", id="f34_case"
        ),
    ],
)
def test_a_file_without_a_declared_column_stops_the_run(
    spark: SparkSession, tmp_path: Path, raw: Path, header: str, text: str
) -> None:
    (raw / "second.csv").write_text(f"{header}\n2,bob,2024-01-01T10:00:00Z,2\n")

    with pytest.raises(SchemaError) as error:
        build_events(spark, config_for(tmp_path), AS_OF)

    assert error.value.exit_code == 3
    assert text.format(file=f"file:{raw}/second.csv", folder=raw) in str(error.value)
    assert not (tmp_path / "root").exists()


def test_a_column_that_files_may_lack_is_declared_by_an_expression(
    spark: SparkSession, tmp_path: Path, raw: Path
) -> None:
    (raw / "second.csv").write_text("utm,id,customer,at\nmail,2,bob,2024-01-01T10:00:00Z\n")
    attributes = {
        "utm": {"kind": "categorical", "expression": "utm"},
        "amount": {"kind": "numerical", "expression": "try_cast(amount as double)"},
    }
    found = taken(spark, config_for(tmp_path, attributes=attributes), "utm", "amount")
    assert found == [("ann", None, 1.5), ("bob", "mail", None)]
