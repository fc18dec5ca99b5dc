"""Rows that were not taken: seen, written out, and counted once when they come back mended."""

import csv
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import ConfigError, GateError
from caspr_spark.session import local_frame
from caspr_spark.tables import read_table, write_table
from pipelines.build_events import build_events
from pipelines.contracts import event_contract
from pipelines.refresh_events import refresh_events
from pipelines.rejected_rows import export_rejected, rejected_counts
from schemas.events import REJECTED
from tests.events.cases import AS_OF, LENIENT, config_of, visits
from tests.refresh.test_refresh_schemas import same_as_a_full_build

HEADER = "id,customer,at,amount"
GOOD = "1,ann,2024-01-01T10:00:00Z,1"
NOBODY, NO_TIME = "2,,2024-01-02T10:00:00Z,50", "3,bob,soon,3"


def delivered(folder: Path, name: str, *lines: str) -> None:
    (folder / "visits").mkdir(exist_ok=True)
    (folder / "visits" / f"{name}.csv").write_text("\n".join([HEADER, *lines]) + "\n")


def config_for(folder: Path, *overlays: Path, **changes: Any) -> Config:
    return config_of(folder, *overlays, sources={"visits": visits(folder / "visits" / "*.csv", **changes)})


def ids(spark: SparkSession, config: Config) -> list[str]:
    """Keys of the events: each row stands there once."""
    rows = read_table(spark, event_contract(config), config.root).select("event_id", "num_raw_rows").collect()
    assert all(row["num_raw_rows"] == 1 for row in rows)
    return sorted(row["event_id"].rsplit("/", 1)[-1] for row in rows)


def reasons(spark: SparkSession, config: Config) -> list[str]:
    return sorted(row["reason"] for row in read_table(spark, REJECTED, config.root).collect())


def test_rows_written_out_mended_and_delivered_in_a_new_file_count_once(spark: SparkSession, tmp_path: Path) -> None:
    config = config_for(tmp_path, LENIENT)
    delivered(tmp_path, "a", GOOD, NOBODY, NO_TIME)
    build_events(spark, config, AS_OF)

    counts = rejected_counts(spark, config, source="visits", reason=None)
    assert [(row.reason, row.rows) for row in counts.itertuples()] == [("customer_present", 1), ("time_present", 1)]
    assert set(counts["file"]) == {f"file:{tmp_path}/visits/a.csv"}

    out = tmp_path / "out.csv"
    assert export_rejected(spark, config, out, source="visits", reason="customer_present").num_rows == 1
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"id": "2", "customer": "", "at": "2024-01-02T10:00:00Z", "amount": "50"}]
    with pytest.raises(ConfigError, match=r"out\.csv is there already"):
        export_rejected(spark, config, out, source="visits", reason=None)

    rows[0]["customer"] = "cid"
    with (tmp_path / "visits" / "b.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert not [note for note in refresh_events(spark, config, AS_OF).notes if "every customer" in note]

    assert ids(spark, config) == ["1", "2"]
    same_as_a_full_build(spark, config)


def test_lines_that_cannot_be_parsed_are_written_beside_the_rows(spark: SparkSession, tmp_path: Path) -> None:
    config = config_for(tmp_path, LENIENT)
    contents = ['{"id":"1","tags":["x"]}', "{broken", "it's cut"]
    rows = [("visits", "readable", "a", None, content, 2) for content in contents]
    types = ", ".join(f"{column.name} {column.type}" for column in REJECTED.columns)
    write_table(local_frame(spark, rows, types), REJECTED, config.root)
    for suffix, row in {"csv": 'amount,at,customer,id,tags\n,,,1,"[""x""]"\n', "jsonl": contents[0] + "\n"}.items():
        out = tmp_path / f"out.{suffix}"
        assert export_rejected(spark, config, out, source="visits", reason="readable")[:2] == (1, 2)
        assert out.read_text() == row
        assert out.with_name(f"out.{suffix}.unparsed").read_text().splitlines() == ["it's cut", "{broken"]
    with pytest.raises(ConfigError, match="expected a name that ends in"):
        export_rejected(spark, config, tmp_path / "out.txt", source="visits", reason=None)
    with pytest.raises(ConfigError, match="--source views: there are visits"):
        export_rejected(spark, config, tmp_path / "new.csv", source="views", reason=None)


@pytest.mark.slow
def test_rows_taken_by_a_mended_rule_or_from_a_mended_file_count_once(spark: SparkSession, tmp_path: Path) -> None:
    def with_rule(limit: int) -> Config:
        rule = {"rule": f"amount < {limit}", "max_failed_share": 1.0, "on_fail": "warn"}
        return config_for(tmp_path, LENIENT, checks={"small": rule})

    delivered(tmp_path, "a", GOOD, NO_TIME)
    delivered(tmp_path, "b", "5,dan,2024-01-05T10:00:00Z,70")
    build_events(spark, with_rule(60), AS_OF)
    assert (ids(spark, with_rule(60)), reasons(spark, with_rule(60))) == (["1"], ["small", "time_present"])

    config = with_rule(100)
    refresh_events(spark, config, AS_OF)
    assert (ids(spark, config), reasons(spark, config)) == (["1", "5"], ["time_present"])
    same_as_a_full_build(spark, config)

    delivered(tmp_path, "a", GOOD, NO_TIME.replace("soon", "2024-01-03T10:00:00Z"))
    refresh_events(spark, config, AS_OF)
    assert (ids(spark, config), reasons(spark, config)) == (["1", "3", "5"], [])
    same_as_a_full_build(spark, config)


@pytest.mark.slow
def test_a_file_that_stopped_a_refresh_counts_once_when_it_is_mended(spark: SparkSession, tmp_path: Path) -> None:
    config = config_for(tmp_path)
    delivered(tmp_path, "a", GOOD)
    build_events(spark, config, AS_OF)
    delivered(tmp_path, "b", NOBODY, "4,eve,2024-01-04T10:00:00Z,4")
    with pytest.raises(GateError, match="'customer_present'"):
        refresh_events(spark, config, AS_OF)
    assert (ids(spark, config), reasons(spark, config)) == (["1"], [])

    delivered(tmp_path, "b", NOBODY.replace(",,", ",cid,"), "4,eve,2024-01-04T10:00:00Z,4")
    refresh_events(spark, config, AS_OF)
    assert (ids(spark, config), reasons(spark, config)) == (["1", "2", "4"], [])
    same_as_a_full_build(spark, config)
