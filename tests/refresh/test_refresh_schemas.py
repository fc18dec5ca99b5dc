"""A refresh whose new files have other columns or types, or cannot be read: what a full build would give, or exit 3."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.disk import kept_on_disk
from caspr_spark.errors import SchemaError
from caspr_spark.events.sources import judged_tables
from caspr_spark.tables import read_table, table_version
from pipelines.build_events import build_events, made_tables
from pipelines.contracts import event_contract
from pipelines.refresh_events import refresh_events
from schemas.events import REJECTED
from tests.events.cases import AS_OF, LENIENT, config_of
from tests.refresh.world import as_rows

TIME = "2024-01-01T10:00:00Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A first file of each of three tables: lines (CSV, without a key), views (JSON) and payments (Parquet)."""
    for name in ("lines", "views", "payments"):
        (tmp_path / name).mkdir()
    (tmp_path / "lines" / "a.csv").write_text(f"customer,at,price\nann,{TIME},1.5\nbob,{TIME},2\n")
    view(tmp_path, "a", tags=["x", "y"])
    payment(tmp_path, "a", amount=7, kind="int32")
    return tmp_path


def view(folder: Path, name: str, **fields: Any) -> None:
    (folder / "views" / f"{name}.json").write_text(json.dumps({"customer": "ann", "at": TIME, "id": name} | fields))


def payment(folder: Path, name: str, *, amount: float, kind: str, **columns: Any) -> None:
    row = {"customer": name, "at": pd.Timestamp(TIME), "amount": pd.Series([amount], dtype=kind)} | columns
    pd.DataFrame(row).to_parquet(folder / "payments" / f"{name}.parquet", coerce_timestamps="us")


def config_for(folder: Path, **events: Any) -> Config:
    def table(name: str, format_: str, attributes: dict[str, Any], **changes: Any) -> dict[str, Any]:
        declared = {"format": format_, "path": str(folder / name), "entity": "customer", "time": {"column": "at"}}
        return declared | {"attributes": attributes} | changes

    sources = {
        "lines": table("lines", "csv", {"price": {"kind": "numerical"}}),
        "views": table("views", "json", {"tags": {"kind": "set", "max_values": 3}}, key=["id"]),
        "payments": table("payments", "parquet", {"amount": {"kind": "numerical"}}),
    }
    return config_of(folder, LENIENT, sources=sources, events=events)


def same_as_a_full_build(spark: SparkSession, config: Config) -> None:
    with kept_on_disk() as keep:
        made = made_tables(spark, config, judged_tables(spark, config), keep)
        for contract, rows in ((event_contract(config), made.events), (REJECTED, made.rejected)):
            found = as_rows(read_table(spark, contract, config.root), contract.column_names)
            assert found == as_rows(rows, contract.column_names)


@pytest.mark.slow
def test_f33_f34_f36_f61_new_files_of_other_columns_are_taken_as_a_full_build_takes_them(
    spark: SparkSession, folder: Path
) -> None:
    config = config_for(folder)
    build_events(spark, config, AS_OF)

    # Columns in another order, more of them, and a file that is none: only their customers are looked at.
    (folder / "lines" / "0.csv").write_text(f"price,utm,at,customer\n1.5,,{TIME},ann\n3,mail,{TIME},cid\n")
    (folder / "payments" / "0.parquet").touch()
    view(folder, "b", tags=None, page="home")
    notes = refresh_events(spark, config, AS_OF).notes
    assert "lines: 2 rows read = 1 taken + 1 duplicate + 0 rejected" in notes
    assert "payments: 1 rows read = 0 taken + 0 duplicate + 1 rejected (unreadable_file 1)" in notes
    warnings = [note for note in notes if note.startswith("warning")]
    assert warnings[0].startswith(
        f"warning: sources.lines: new column 'utm' (e.g. in file:{folder}/lines/0.csv) is not"
    )
    assert warnings[1].startswith("warning: sources.views: new column 'page'")
    assert warnings[2].startswith(f"warning: sources.payments: file:{folder}/payments/0.parquet cannot be read")
    assert len(warnings) == 3
    assert not [note for note in notes if "every customer" in note]
    same_as_a_full_build(spark, config)

    # Known by now; a type that is wider, and a list that is also a single value, may change what was read before.
    (folder / "lines" / "1.csv").write_text(f"price,utm,at,customer\n4,mail,{TIME},ann\n")
    payment(folder, "b", amount=2**40, kind="int64")
    notes = refresh_events(spark, config, AS_OF).notes
    assert "every customer was compared: sources.payments: column 'amount' was int and is now bigint" in notes
    assert not [note for note in notes if note.startswith("warning")]
    same_as_a_full_build(spark, config)

    view(folder, "c", tags="z")
    notes = refresh_events(spark, config, AS_OF).notes
    assert "every customer was compared: sources.views: column 'tags' was array<string> and is now string" in notes
    same_as_a_full_build(spark, config)


@pytest.mark.slow
def test_f32_f33_f34_f36_a_refresh_stops_at_files_that_do_not_fit(spark: SparkSession, folder: Path) -> None:
    payment(folder, "a", amount=7, kind="int64")
    config = config_for(folder, on_new_column="stop", on_unreadable_file="stop")
    build_events(spark, config, AS_OF)
    before = table_version(spark, event_contract(config), config.root)
    csv, parquet = folder / "lines" / "b.csv", folder / "payments" / "b.parquet"

    def stopped() -> str:
        with pytest.raises(SchemaError) as error:
            refresh_events(spark, config, AS_OF)
        assert error.value.exit_code == 3
        assert table_version(spark, event_contract(config), config.root) == before
        return str(error.value)

    csv.write_text(f"customer,at\nann,{TIME}\n")
    assert f"lines.attributes.price: column 'price' is not in 1 of the files, e.g. file:{csv}" in stopped()
    csv.write_text(f"customer,at,price,utm\nann,{TIME},1,mail\n")
    assert f"lines: new column 'utm' (e.g. in file:{csv}) is not declared" in stopped()
    csv.unlink()
    view(folder, "b", page="home")
    json_file = folder / "views" / "b.json"
    assert f"views: new column 'page' (e.g. in file:{json_file}) is not declared" in stopped()
    json_file.unlink()
    payment(folder, "b", amount=7, kind="int32")
    assert f"payments: column 'amount' is int in file:{parquet} and was bigint" in stopped()
    parquet.write_text("no table\n")
    assert f"payments: file:{parquet} cannot be read" in stopped()
