"""Golden cases: small raw tables in, the events, profiles and rejected rows that they must give out.

A case is a folder of tests/golden/events: config.yaml (laid over lenient.yaml), the raw files, and in `expected` one
JSON line a row. A column that is null is left out; `*` in an event_id stands for the hash of a row that has no key.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config_file import load_config
from caspr_spark.tables import read_table
from pipelines.build_events import build_events
from pipelines.contracts import event_contract, profile_contract
from schemas.events import REJECTED
from schemas.run_metrics import RUN_METRICS
from tests.events.cases import AS_OF

GOLDEN = Path(__file__).parents[1] / "golden" / "events"
CASES = sorted(path.parent for path in GOLDEN.glob("*/config.yaml"))

Row = dict[str, Any]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_case(spark: SparkSession, case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASE", str(case))
    (tmp_path / "root.yaml").write_text(f"root: {tmp_path / 'root'}\n")
    config = load_config([GOLDEN / "lenient.yaml", case / "config.yaml", tmp_path / "root.yaml"])

    summary = build_events(spark, config, AS_OF)

    events = rows(read_table(spark, event_contract(config), config.root))
    assert len({row["event_id"] for row in events}) == len(events)
    for row in events:
        row["event_id"] = re.sub(r":[0-9a-f]{32}$", ":*", row["event_id"])
    rejected = [row for row in rows(read_table(spark, REJECTED, config.root)) for _ in range(row.pop("num_rows"))]
    for row in rejected:
        row.pop("customer_id", None)  # it stands in the content
        row["file"] = Path(row["file"]).name
        row["content"] = as_json(row["content"])
    accounts = account_rows(read_table(spark, RUN_METRICS, config.root))
    same_rows(events, expected(case, "events"))
    same_rows(rejected, expected(case, "rejected"))
    same_rows(rows(read_table(spark, profile_contract(config), config.root)), expected(case, "profiles"))
    same_rows(accounts, expected(case, "accounts"))
    for account in accounts:
        assert account["taken"] + account["duplicate"] + account["rejected"] == account["read"]
    assert sum(row["num_raw_rows"] for row in events) == sum(
        account["taken"] for account in accounts if account["table"] in config.sources
    )
    assert (summary.rows_in, summary.rows_out) == (sum(account["read"] for account in accounts), len(events))


def rows(table: DataFrame) -> list[Row]:
    """Rows as an expected file writes them: times as ISO text in UTC, nulls left out."""
    written = [
        F.date_format(name, "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'").alias(name) if kind == "timestamp" else F.col(name)
        for name, kind in table.dtypes
    ]
    found = [{k: v for k, v in row.asDict().items() if v is not None} for row in table.select(*written).collect()]
    return [{k: v.replace(".000000Z", "Z") if k.endswith("_time") else v for k, v in row.items()} for row in found]


def account_rows(metrics: DataFrame) -> list[Row]:
    """RUN_METRICS of the stage -> one row a raw table."""
    accounts: dict[str, Row] = {}
    for row in metrics.where("stage = 'events' and metric like 'rows_%' and metric not like '%reason'").collect():
        accounts.setdefault(row["key"], {"table": row["key"]})[row["metric"].removeprefix("rows_")] = row["value"]
    return list(accounts.values())


def expected(case: Path, table: str) -> list[Row]:
    path = case / "expected" / f"{table}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []


def same_rows(found: list[Row], wanted: list[Row]) -> None:
    """Equal as multisets; otherwise show what is missing and what is too much."""
    have, want = Counter(map(as_line, found)), Counter(map(as_line, wanted))
    differences = [f"unexpected: {row}" for row in have - want] + [f"missing:    {row}" for row in want - have]
    assert not differences, "\n".join(["", *differences])


def as_line(row: Row) -> str:
    return json.dumps(numbers_alike(row), sort_keys=True, ensure_ascii=False)


def numbers_alike(row: Row) -> Row:
    return {k: float(v) if isinstance(v, int | float) else v for k, v in row.items()}


def as_json(content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content
