"""A table whose history was cut: nothing of it is left in any byte, and everybody goes on from the version that is."""

from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from caspr_spark.erase.history import ERASED_BY, forget_history, remove_rows
from caspr_spark.erase.names import Names
from caspr_spark.erase.traces import traces
from caspr_spark.session import local_frame
from caspr_spark.tables import changed_rows, is_missing_file, last_commit_notes, read_table, table_version, write_table
from schemas.contract import Column, Contract

TABLE = Contract("people", (Column("customer_id", "string", ""), Column("n", "int", "")), key=("customer_id",))
GONE = "customer-gone"


def test_f99_a_cut_table_has_no_past_and_goes_on(spark: SparkSession, tmp_path: Path) -> None:
    root, place = str(tmp_path), tmp_path / TABLE.name

    def append(customer: str, n: int) -> None:
        rows = local_frame(spark, [(customer, n)], "customer_id string, n int")
        write_table(rows, TABLE, root, mode="append", made_from=f"m{n}", numbers={"n": n}, once=f"run {n}")

    append(GONE, 1)
    append("customer-kept", 2)
    orphan = place / "part-killed.parquet"
    orphan.write_bytes(next(place.glob("part-*.parquet")).read_bytes())
    remove_rows(spark, place, read_table(spark, TABLE, root).where(f"customer_id = '{GONE}'"), key=["customer_id"])
    found = {where.split("/")[1] for where in traces(place.parent, Names([GONE])).places}
    assert found >= {"_change_data", "_delta_log"}
    before, notes = table_version(spark, TABLE, root), last_commit_notes(spark, TABLE, root)

    version = forget_history(spark, place, request_id="R1", notes=notes)
    assert version == table_version(spark, TABLE, root) > before
    assert traces(place, Names([GONE])).places == ()
    assert {**last_commit_notes(spark, TABLE, root), "version": 0} == {**notes, "version": 0}
    assert (notes["made_from"], notes["numbers"]) == ("m2", {"n": 2})
    for old in range(version):
        with pytest.raises(AnalysisException, match=r"DELTA_VERSION_NOT_FOUND.*Cannot time travel"):
            read_table(spark, TABLE, root, version=old)
    with pytest.raises(Exception, match="DELTA_LOG_FILE_NOT_FOUND") as error:
        changed_rows(spark, TABLE, root, after=0, until=version)
    assert is_missing_file(error.value)

    append("customer-kept", 2)  # done before the cut: not again
    assert table_version(spark, TABLE, root) == version
    append("customer-new", 3)
    new = changed_rows(spark, TABLE, root, after=version, until=version + 1)
    assert [row["customer_id"] for row in new.collect()] == ["customer-new"]
    others = DeltaTable(str(place))  # delta-rs
    assert sorted(others.to_pyarrow_table()["customer_id"].to_pylist()) == ["customer-kept", "customer-new"]
    assert others.metadata().configuration[ERASED_BY] == "R1"
    assert others.protocol().min_reader_version == 1
