"""The latest vectors and one run's: which rows, which version, and that no more is read than is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.reader import newest_versions, read_as_of, read_latest, read_run
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS
from tests.reader.synthetic import LATEST, SCHEMA, day, table_of


def rows(found: Any) -> list[tuple[Any, ...]]:
    return [(row["customer_id"], row["run_id"], *row["embedding"]) for row in found.to_pylist()]


def test_latest_is_the_table_by_customer(root: Path) -> None:
    found = read_latest(root, mix_models=True)
    assert rows(found) == [("ann", "r5", 1, 5), ("bob", "r1", 2, 0), ("cid", "r3", 3, 3), ("dan", "r5", 4, 5)]
    assert found.schema.names == SCHEMA.names
    assert found.schema.types == SCHEMA.types


@pytest.mark.parametrize(
    "customers",
    [
        ["bob", "zoe", "cid", "bob", None],
        ("cid", "bob"),
        pa.array(["cid", "bob"]),
        pa.chunked_array([["cid"], ["bob"]]),
        pd.Series(["cid", "bob"]),
        pl.Series(["cid", "bob"]),
        np.array(["cid", "bob"]),
        {"bob": 1, "cid": 2},
    ],
    ids=lambda customers: type(customers).__name__,
)
def test_latest_of_some_customers(customers: Any, root: Path) -> None:
    assert rows(read_latest(root, customers)) == [("bob", "r1", 2, 0), ("cid", "r3", 3, 3)]


def test_latest_of_no_customers_is_empty(root: Path) -> None:
    assert read_latest(root, []).num_rows == 0
    assert read_latest(root, ["zoe"]).num_rows == 0


@pytest.mark.parametrize(("customers", "found"), [("ann", "the text 'ann'"), (["ann", 7], "found 7")])
def test_customers_must_be_a_list_of_texts(customers: Any, found: str, root: Path) -> None:
    with pytest.raises(CasprError, match=f"customers: expected .*{found}"):
        read_latest(root, customers)


def test_f72_latest_of_two_models_is_refused_and_a_pinned_one_is_undisturbed(root: Path) -> None:
    with pytest.raises(UnsafeError, match=r"2 models.*m1: 2 vectors.*m2: 2 vectors"):
        read_latest(root)
    # m2 replaced ann's vector in the latest table; who has pinned m1 still gets the newest of that model
    assert rows(read_latest(root, model_version="m1")) == [
        ("ann", "r3", 1, 3),
        ("bob", "r1", 2, 0),
        ("cid", "r3", 3, 3),
    ]
    assert rows(read_latest(root, ["ann", "bob"], model_version="m2")) == [("ann", "r5", 1, 5)]
    assert read_latest(root, ["bob"], model_version="m2").num_rows == 0
    with pytest.raises(CasprError, match="no model_version 'm7' here; it has, newest first: m2, m1"):
        read_latest(root, model_version="m7")


def test_run_is_what_it_published(root: Path) -> None:
    assert rows(read_run(root, "r3")) == [("ann", "r3", 1, 3), ("cid", "r3", 3, 3)]
    assert rows(read_run(root, "r3", ["cid", "bob"])) == [("cid", "r3", 3, 3)]
    assert read_run(root, "r3", ["bob"]).num_rows == 0
    with pytest.raises(CasprError, match="no run_id 'r4' here; it has, newest first: r5, r3, r1"):
        read_run(root, "r4")


def test_customer_id_comes_with_the_chosen_columns(root: Path) -> None:
    assert read_run(root, "r3", columns=["num_events"]).to_pylist() == [
        {"customer_id": "ann", "num_events": 3},
        {"customer_id": "cid", "num_events": 3},
    ]
    assert read_latest(root, ["bob"], columns=["run_id", "customer_id"]).column_names == ["customer_id", "run_id"]


@pytest.mark.parametrize(("as_", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame), ("arrow", pa.Table)])
def test_kinds_that_can_be_asked_for(as_: Any, kind: Any, root: Path) -> None:
    for found in (read_run(root, "r3", as_=as_), read_latest(root, ["ann", "dan"], as_=as_)):
        assert isinstance(found, kind)
        assert found.shape == (2, 7)


def test_an_unknown_kind_is_refused(root: Path) -> None:
    with pytest.raises(CasprError, match="as_: expected arrow, pandas, polars; found 'spark'"):
        read_run(root, "r3", as_="spark")  # type: ignore[arg-type]


def test_a_version_is_read_as_it_was(root: Path) -> None:
    assert newest_versions(root) == {CUSTOMER_EMBEDDINGS.name: 0, CUSTOMER_EMBEDDING_HISTORY.name: 2}
    at_first = {"customer_id": ["ann", "cid"], "event_time": [day(9), day(9)]}
    found = read_as_of(root, pa.table(at_first), version=0)
    assert found.column("run_id").to_pylist() == ["r1", None]
    with pytest.raises(CasprError, match="no run_id 'r3' here; it has, newest first: r1"):
        read_run(root, "r3", version=0)


@pytest.mark.parametrize("version", [3, -1])
def test_f99_a_version_that_never_was_is_refused(version: int, root: Path) -> None:
    with pytest.raises(CasprError, match=f"there is no version {version}; the newest is 2"):
        read_run(root, "r1", version=version)


def erase(root: Path, customer: str) -> None:
    """As erasure ends: the customer's files are rewritten without him, and the old ones are gone."""
    table = DeltaTable(root / CUSTOMER_EMBEDDING_HISTORY.name)
    table.delete(f"customer_id = '{customer}'")
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)


def test_f99_a_version_before_an_erasure_is_refused(root: Path) -> None:
    erase(root, "cid")
    assert rows(read_run(root, "r3")) == [("ann", "r3", 1, 3)]
    message = "version 2 can no longer be read: maintenance or the erasure of customers .*; without version="
    with pytest.raises(CasprError, match=message):
        read_run(root, "r3", version=2)
    with pytest.raises(CasprError, match=message):
        read_as_of(root, pa.table({"customer_id": ["cid"], "event_time": [day(9)]}), version=2)


def test_f99_a_version_whose_log_was_cleaned_up_is_refused(root: Path) -> None:
    folder = root / CUSTOMER_EMBEDDING_HISTORY.name
    DeltaTable(folder).create_checkpoint()
    for number in (0, 1):
        (folder / "_delta_log" / f"{number:020}.json").unlink()
    assert rows(read_run(root, "r1")) == [("ann", "r1", 1, 0), ("bob", "r1", 2, 0)]
    with pytest.raises(CasprError, match=r"version 1 can no longer be read.* The newest version is 2;"):
        read_run(root, "r1", version=1)


def test_a_root_without_tables_is_said(tmp_path: Path) -> None:
    with pytest.raises(CasprError, match="no table 'customer_embeddings' here; is this the root"):
        read_latest(tmp_path / "elsewhere")


def test_only_files_that_can_hold_a_row_are_opened(root: Path) -> None:
    """All files but those of one run are taken away: whoever opens another one fails."""
    folder = root / CUSTOMER_EMBEDDING_HISTORY.name
    keep_files_of(folder, version=1, before=0)
    assert rows(read_run(root, "r3")) == [("ann", "r3", 1, 3), ("cid", "r3", 3, 3)]
    assert rows(read_run(root, "r3", ["cid"])) == [("cid", "r3", 3, 3)]
    cid = pa.table({"customer_id": ["cid", "cid"], "event_time": [day(4), day(2)]})
    assert read_as_of(root, cid, model_version="m1").column("run_id").to_pylist() == ["r3", None]
    with pytest.raises(CasprError, match="can no longer be read"):
        read_run(root, "r1")


def keep_files_of(folder: Path, *, version: int, before: int) -> None:
    added = set(DeltaTable(folder, version=version).file_uris()) - set(DeltaTable(folder, version=before).file_uris())
    for path in folder.glob("*.parquet"):
        if path.name not in {Path(uri).name for uri in added}:
            path.unlink()


def test_a_partitioned_table_is_read_like_any_other(tmp_path: Path) -> None:
    runs = ["r 1", "r:2/ä", "r%3A", "r+4=5"]
    partitioned = table_of([("ann", number, "m1", run, (number, 0)) for number, run in enumerate(runs, start=1)])
    write_deltalake(tmp_path / "a folder ä" / CUSTOMER_EMBEDDING_HISTORY.name, partitioned, partition_by=["run_id"])
    for number, run in enumerate(runs, start=1):
        assert rows(read_run(tmp_path / "a folder ä", run)) == [("ann", run, number, 0)]


def test_a_table_of_another_version_of_the_program_is_said(tmp_path: Path) -> None:
    write_deltalake(tmp_path / CUSTOMER_EMBEDDINGS.name, table_of(LATEST).drop_columns(["num_events"]))
    with pytest.raises(CasprError, match="no column num_events, which the contract 'customer_embeddings' has"):
        read_latest(tmp_path)
    assert read_latest(tmp_path, ["bob"], columns=["embedding"]).num_rows == 1


def test_reading_leaves_the_tables_as_they_are(root: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    read_latest(root, mix_models=True)
    read_run(root, "r3")
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before
