"""Volume and freshness in a refresh: a stop takes nothing, and the next run with more rows goes through."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import GateError
from caspr_spark.events.sources import JudgedTable
from caspr_spark.session import local_frame
from caspr_spark.tables import last_commit_notes, read_table, write_table
from pipelines.arrivals_gate import judged_arrivals
from pipelines.build_events import build_events
from pipelines.contracts import event_contract
from pipelines.refresh_events import refresh_events
from schemas.run_metrics import RUN_METRICS
from schemas.runs import RUNS
from tests.events.cases import config_of, visits

_ROWS = "ending string, event_time timestamp"
START = datetime(2024, 1, 1, tzinfo=UTC)
VOLUME = {"min_runs": 2, "limits": {"min_ratio": 0.5, "max_ratio": 3, "on_fail": "stop"}}


def config_for(folder: Path, **events: Any) -> Config:
    (folder / "orders").mkdir(exist_ok=True)
    (folder / "clicks").mkdir(exist_ok=True)
    sources = {name: visits(folder / name / "*.csv") for name in ("orders", "clicks")}
    return config_of(folder, sources=sources, events=events)


def arrive(folder: Path, table: str, name: str, *, rows: int, day: int) -> None:
    time = (START + timedelta(days=day, hours=6)).isoformat()
    lines = [f"{name}{number},ann,{time},1" for number in range(rows)]
    (folder / table / f"{name}.csv").write_text("\n".join(["id,customer,at,amount", *lines]) + "\n")


def published(spark: SparkSession, config: Config, *, days: int, orders: float, clicks: float) -> None:
    """As after a build on day 0 and refreshes on the days that follow, each of which read so many rows."""
    model = "m"
    runs = [(f"r{day}", START + timedelta(days=day), "refresh", model, None, 0, 0, 1, 0) for day in range(days + 1)]
    types = ", ".join(f"{column.name} {column.type}" for column in RUNS.columns)
    write_table(local_frame(spark, runs, types), RUNS, config.root, mode="append")
    numbers = {("rows_read", "orders"): orders, ("rows_read", "clicks"): clicks, ("interval_hours", ""): 24.0}
    rows = [
        (START + timedelta(days=day), "", "events", metric, key, value)
        for day in range(1, days + 1)
        for (metric, key), value in numbers.items()
    ]
    types = ", ".join(f"{column.name} {column.type}" for column in RUN_METRICS.columns)
    write_table(local_frame(spark, rows, types), RUN_METRICS, config.root, mode="append")


def test_a_stop_for_its_volume_takes_nothing_and_more_rows_go_through(spark: SparkSession, tmp_path: Path) -> None:
    config = config_for(tmp_path, volume=VOLUME)
    arrive(tmp_path, "orders", "a", rows=50, day=-1)
    arrive(tmp_path, "clicks", "a", rows=50, day=-1)
    build_events(spark, config, START)
    published(spark, config, days=2, orders=10.0, clicks=4.0)
    before = last_commit_notes(spark, event_contract(config), config.root)

    arrive(tmp_path, "orders", "b", rows=4, day=2)
    third = START + timedelta(days=3)
    with pytest.raises(GateError) as error:
        refresh_events(spark, config, third)

    assert error.value.exit_code == 3
    assert str(error.value).splitlines() == [
        "the gate stopped the run; the tables are as they were:",
        "  - orders: 4 rows arrived; 5 to 30 are expected, as the median of the last 2 runs of the kind is 10",
        "  - clicks: 0 rows arrived; 2 to 12 are expected, as the median of the last 2 runs of the kind is 4",
        "nothing was taken: run again when the rest has arrived; if all is right, change the limits of events.volume, "
        "events.freshness or events.ahead, or on_fail, in the configuration",
        f"Data Docs: {config.root}/data_docs/20240104T000000Z-events.html",
    ]
    assert last_commit_notes(spark, event_contract(config), config.root) == before

    arrive(tmp_path, "orders", "c", rows=6, day=2)
    arrive(tmp_path, "clicks", "c", rows=3, day=2)
    assert refresh_events(spark, config, third).rows_in == 13
    metrics = read_table(spark, RUN_METRICS, config.root).where(f"as_of = timestamp'{third.isoformat()}'").collect()
    assert {(row["metric"], row["key"], row["value"]) for row in metrics} >= {
        ("rows_read", "orders", 10.0),
        ("rows_read", "clicks", 3.0),
        ("interval_hours", "", 24.0),
    }


def test_only_runs_of_as_long_an_interval_judge_a_volume(spark: SparkSession, tmp_path: Path) -> None:
    config = config_for(tmp_path, volume=VOLUME)
    published(spark, config, days=2, orders=10.0, clicks=0.0)

    def failed(interval: float | None, day: int = 3) -> list[tuple[str, bool]]:
        as_of = START + timedelta(days=day)
        judged = judged_arrivals(spark, config, as_of, {}, {"orders": 1}, interval=interval)
        return [(verdict.check, verdict.passed) for verdict in judged.verdicts]

    assert failed(24.0) == [("orders.volume", False)]
    assert failed(24.0, day=2) == []  # the run itself is no run before it
    assert failed(6.0) == failed(0.0) == failed(None) == []


def test_freshness_is_judged_by_what_arrived_and_what_is_known(spark: SparkSession, tmp_path: Path) -> None:
    config = config_for(tmp_path, freshness={"by_source": {"clicks": {"max_hours": 30, "on_fail": "stop"}}})
    arrive(tmp_path, "orders", "a", rows=2, day=-9)
    arrive(tmp_path, "clicks", "a", rows=2, day=-1)
    build_events(spark, config, START)
    arrived = local_frame(spark, [(None, START), ("time_plausible", START + timedelta(hours=17))], _ROWS)
    batch = {"clicks": JudgedTable("clicks", arrived, {}, 0)}

    def text(hours: int, tables: dict[str, JudgedTable]) -> str:
        as_of = START + timedelta(hours=hours)
        (verdict,) = judged_arrivals(spark, config, as_of, tables, None, interval=12.0).verdicts
        return f"{verdict.passed} {verdict.detail}"

    assert text(12, {}) == "True clicks: the newest event is 30.0 hours older than as_of; 30.0 may be"
    assert text(18, {}).startswith("False clicks: the newest event is 36.0 hours")
    assert text(18, batch).startswith("True clicks: the newest event is 18.0 hours")  # not the row that was rejected

    with pytest.raises(GateError, match=r"clicks: the newest event is 36\.0 hours"):  # though nothing arrived
        refresh_events(spark, config, START + timedelta(hours=18))


def test_f55_new_rows_from_after_as_of_stop_a_refresh_but_no_build(spark: SparkSession, tmp_path: Path) -> None:
    config = config_for(tmp_path, ahead={"by_source": {"clicks": {"max_hours": 0.1, "on_fail": "stop"}}})
    for table in ("orders", "clicks"):
        arrive(tmp_path, table, "a", rows=2, day=3)
    build_events(spark, config, START)  # a build over files of many days: later events are no news
    published(spark, config, days=1, orders=2.0, clicks=2.0)
    before = last_commit_notes(spark, event_contract(config), config.root)

    for table in ("orders", "clicks"):
        arrive(tmp_path, table, "b", rows=2, day=2)
    with pytest.raises(GateError) as error:
        refresh_events(spark, config, START + timedelta(days=2))
    assert str(error.value).splitlines()[1:2] == [
        "  - clicks: the newest event is 6.0 hours later than as_of; 0.1 may be"
    ]
    assert last_commit_notes(spark, event_contract(config), config.root) == before
    assert refresh_events(spark, config, START + timedelta(days=3)).rows_in == 4
