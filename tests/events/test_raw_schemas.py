"""Raw files that differ in their columns: what is read, what is said of it, and what stops the run."""

import gzip
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import CasprError, SchemaError
from caspr_spark.events.activities import activities
from caspr_spark.events.file_schemas import file_schemas
from caspr_spark.events.sources import judged_tables
from caspr_spark.tables import read_table
from pipelines.build_events import build_events
from schemas.events import REJECTED
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


def parquet(folder: Path, name: str, **columns: Any) -> None:
    """One file of one row with a customer, an id and a time, and these columns."""
    row = {"id": len(list(folder.glob("*"))), "customer": Path(name).stem, "at": pd.Timestamp("2024-01-01", tz="UTC")}
    pd.DataFrame([row | columns]).to_parquet(folder / f"{name}.parquet", coerce_timestamps="us")


def parquet_config(folder: Path, **changes: Any) -> Config:
    return config_for(folder, **{"format": "parquet", "key": ["id"], **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder of raw files."""
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def test_f33_f34_parquet_columns_that_come_go_or_are_widened_are_read(
    spark: SparkSession, tmp_path: Path, folder: Path
) -> None:
    parquet(folder, "ann", amount=np.int32(7), weight=np.float32(0.5), price=Decimal("1.50"), more={"b": 1})
    parquet(folder, "bob", amount=np.int64(2**40), weight=0.1, price=Decimal("20.1250"), more={"b": 2, "a": 3})
    parquet(folder, "cid", amount=np.int16(3), weight=np.int32(4), price=Decimal("3"), utm="mail")
    config = parquet_config(tmp_path)

    fields = ("amount", "weight", "price", "utm", "more")
    found = taken(spark, config, *[f"cast(raw_row.{field} as string)" for field in fields])

    assert found == [
        ("ann", "7", "0.5", "1.5000", None, "{null, 1}"),
        ("bob", str(2**40), "0.1", "20.1250", None, "{3, 2}"),
        ("cid", "3", "4.0", "3.0000", "mail", None),
    ]


def test_a_parquet_column_of_nulls_has_the_type_that_other_files_tell(
    spark: SparkSession, tmp_path: Path, folder: Path
) -> None:
    parquet(folder, "ann", amount=1, note="x", tags=["t"])
    parquet(folder, "bob", amount=2, note=None, tags=[])  # pandas writes integers for both
    parquet(folder, "cid", amount=3, note=None, tags=["u"])

    found = taken(spark, parquet_config(tmp_path), "amount", "raw_row.note", "raw_row.tags[0]")

    assert found == [("ann", 1, "x", "t"), ("bob", 2, None, None), ("cid", 3, None, "u")]


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ({"amount": 1}, {"amount": "one"}, "column 'amount' is bigint in {first} and string in {second}"),
        ({"amount": 1}, {"amount": 1.5}, "column 'amount' is bigint in {first} and double in {second}"),
        ({"amount": 1}, {"Amount": 1}, "column 'amount' ({first}) is 'Amount' in {second}"),
        ({"amount": 1}, {"price": 1}, "column 'amount' is not in 1 of the files, e.g. {second} (it has: id, customer,"),
        (
            {"amount": 1, "more": [1]},
            {"amount": 1, "more": 2},
            "column 'more' is array<bigint> in {first} and",
        ),
    ],
    ids=["text", "not_exact", "case", "f32_renamed", "list"],
)
def test_f34_parquet_files_that_do_not_fit_together_stop_the_run(
    spark: SparkSession, tmp_path: Path, folder: Path, first: dict[str, Any], second: dict[str, Any], text: str
) -> None:
    parquet(folder, "ann", **first)
    parquet(folder, "bob", **second)

    with pytest.raises(SchemaError) as error:
        judged_tables(spark, parquet_config(tmp_path))

    assert error.value.exit_code == 3
    assert text.format(first=f"file:{folder}/ann.parquet", second=f"file:{folder}/bob.parquet") in str(error.value)


def damaged_files(folder: Path) -> None:
    """A whole Parquet file and four that are none."""
    parquet(folder, "ann", amount=1)
    whole = (folder / "ann.parquet").read_bytes()
    (folder / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "zero bytes.parquet").touch()
    (folder / "text.parquet").write_text(CSV)


def test_f36_files_that_cannot_be_read_are_rejected_as_one_row_each(
    spark: SparkSession, tmp_path: Path, folder: Path
) -> None:
    damaged_files(folder)
    config = parquet_config(tmp_path)

    notes = build_events(spark, config, AS_OF).notes

    assert notes[0] == "visits: 4 rows read = 1 taken + 0 duplicate + 3 rejected (unreadable_file 3)"
    assert f"file:{folder}/zero bytes.parquet cannot be read" in "\n".join(notes)
    rejected = read_table(spark, REJECTED, config.root).orderBy("file").collect()
    assert [(row["reason"], row["file"], row["customer_id"], row["num_rows"]) for row in rejected] == [
        ("unreadable_file", f"file:{folder}/{name}.parquet", None, 1) for name in ("text", "truncated", "zero%20bytes")
    ]
    assert "is not a Parquet file" in rejected[0]["content"]


def test_f36_strict_stops_at_a_file_that_cannot_be_read(spark: SparkSession, tmp_path: Path, folder: Path) -> None:
    damaged_files(folder)
    strict = {"on_unreadable_file": "stop"}
    source = visits(folder, format="parquet")

    with pytest.raises(SchemaError, match=r"text.parquet cannot be read: .* is not a Parquet file") as error:
        build_events(spark, config_of(tmp_path, LENIENT, sources={"visits": source}, events=strict), AS_OF)

    assert error.value.exit_code == 3
    assert not (tmp_path / "root").exists()


def test_f36_a_source_of_which_nothing_can_be_read_stops_the_run(
    spark: SparkSession, tmp_path: Path, folder: Path
) -> None:
    (folder / "a.parquet").touch()
    with pytest.raises(SchemaError, match=r"no file at .* can be read: .*a.parquet"):
        judged_tables(spark, parquet_config(tmp_path))


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_f36_a_compressed_file_whose_end_is_missing_is_rejected(
    spark: SparkSession, tmp_path: Path, folder: Path, kind: str
) -> None:
    row = '{"id": 1, "customer": "ann", "at": "2024-01-01T10:00:00Z", "amount": 1.5}\n'
    text = CSV if kind == "csv" else row
    (folder / f"whole.{kind}.gz").write_bytes(gzip.compress(text.encode()))
    random = Random(1)
    many = text + "".join(f"{random.random()},bob,2024-01-01T10:00:00Z,1\n" for _ in range(20_000))
    (folder / f"cut.{kind}.gz").write_bytes(gzip.compress(many.encode())[:-1000])
    (folder / f"other.{kind}.gz").write_text("not compressed\n")
    (folder / f"empty.{kind}").touch()  # of JSON lines: no lines

    rows = judged_tables(spark, config_for(tmp_path, format=kind))["visits"].rows.orderBy("raw_file").collect()

    ends = [(row["customer_id"], row["ending"], Path(row["raw_file"]).name) for row in rows]
    empty = [(None, "unreadable_file", "empty.csv")] if kind == "csv" else []
    assert ends == [
        (None, "unreadable_file", f"cut.{kind}.gz"),
        *empty,
        (None, "unreadable_file", f"other.{kind}.gz"),
        ("ann", None, f"whole.{kind}.gz"),
    ]


def test_f36_a_file_that_may_not_be_opened_is_no_damaged_file(
    spark: SparkSession, tmp_path: Path, folder: Path
) -> None:
    (folder / "a.csv").write_text(CSV)
    table = config_for(tmp_path).sources["visits"]
    with pytest.raises(CasprError, match=r"sources.visits: .*gone.csv cannot be opened: .*does not exist"):
        file_schemas(spark, table, "sources.visits", [f"file:{folder}/a.csv", f"file:{folder}/gone.csv"])
