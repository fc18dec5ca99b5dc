"""Time as the data tell it: a clock that was wrong, and events that come years late."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from caspr_spark.config_file import load_config
from caspr_spark.reader import read_as_of, read_latest
from caspr_spark.tables import changed_rows, read_table, table_version
from jobs.options import refresh_times
from pipelines.build_events import build_events
from pipelines.contracts import event_contract
from pipelines.publish_embeddings import publish_embeddings
from pipelines.refresh_events import refresh_events
from tests.events.cases import AS_OF
from tests.publish.conftest import overlays_below, write_run
from tests.refresh.world import START, World

AHEAD = timedelta(days=400)


def as_written_by_a_clock_ahead(root: Path) -> None:
    """Let all files below the root, and the commits of its tables, bear times in the future."""
    shift = AHEAD.total_seconds()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        time = path.stat().st_mtime + shift
        if path.parent.name == "_delta_log" and path.suffix == ".json":
            actions = [json.loads(line) for line in path.read_text().splitlines()]
            for action in actions:
                for kind, field in (("commitInfo", "timestamp"), ("add", "modificationTime")):
                    if kind in action:
                        action[kind][field] += round(shift * 1000)
            path.write_text("".join(json.dumps(action) + "\n" for action in actions))
            path.with_name(f".{path.name}.crc").unlink(missing_ok=True)  # the sum of what stood there before
        os.utime(path, (time, time))


def served(root: str) -> dict[str, tuple[str, datetime]]:
    return {row["customer_id"]: (row["run_id"], row["as_of"]) for row in read_latest(root).to_pylist()}


@pytest.mark.slow
def test_f57_a_clock_that_jumped_back_between_runs_changes_neither_order_nor_vectors(
    spark: SparkSession, tmp_path: Path
) -> None:
    config = load_config(overlays_below(tmp_path))
    second = write_run(spark, config, {"ann": (2, 0), "bob": (2, 1)}, day=2, run_id="r2")
    publish_embeddings(spark, config, second)
    as_written_by_a_clock_ahead(Path(config.root))

    third = write_run(spark, config, {"ann": (3, 0)}, day=3, run_id="r3")
    assert publish_embeddings(spark, config, third).changed
    first = write_run(spark, config, {"ann": (1, 0), "cid": (1, 2)}, day=1, run_id="r1")
    assert publish_embeddings(spark, config, first).changed
    assert served(config.root) == {"ann": ("r3", third), "bob": ("r2", second), "cid": ("r1", first)}
    times = [time + timedelta(hours=1) for time in (first, second, third)]
    entities = pa.table({"customer_id": ["ann"] * 3, "event_time": times})
    known = read_as_of(config.root, entities, columns=["run_id"])
    assert known.column("run_id").to_pylist() == ["r1", "r2", "r3"]


@pytest.mark.slow
def test_f57_what_arrived_is_found_by_file_and_version_though_it_looks_older(
    spark: SparkSession, tmp_path: Path
) -> None:
    world = World(spark, tmp_path, seed=8)
    config = world.config()
    build_events(spark, config, AS_OF)
    for place in (Path(config.root), tmp_path / "payments"):
        as_written_by_a_clock_ahead(place)

    world.new_orders()
    world.new_payments()
    assert refresh_events(spark, config, AS_OF).changed
    assert world.found() == world.expected()
    assert not refresh_events(spark, config, AS_OF).changed


def test_f57_the_interval_of_an_earlier_clock_is_one_that_was_published() -> None:
    noon = datetime(2024, 6, 1, 12, 1, tzinfo=UTC)
    (later,), (earlier,) = (refresh_times([], 6, now=now) for now in (noon, noon - timedelta(hours=7)))
    assert (later, earlier) == (noon.replace(minute=0), datetime(2024, 6, 1, 0, tzinfo=UTC))


@pytest.mark.slow
def test_f52_an_event_of_years_ago_is_taken_like_any_other_and_its_customer_is_touched(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Behind all that a customer's state holds: the newest four events."""
    world = World(spark, tmp_path, seed=9, sequences={"max_events": 4})
    config = world.config()
    build_events(spark, config, AS_OF)
    before = table_version(spark, event_contract(config), config.root)
    old = START - timedelta(days=4 * 365)
    (tmp_path / "orders" / "late.csv").write_text(
        f"order,line,customer,at,product,price\n977,0,c1,{old:%F %T},p1,2.5\n"
    )
    (tmp_path / "views" / "late.json").write_text(
        json.dumps({"who": "c2", "ts": old.isoformat(), "page": "login"}) + "\n"
    )

    refresh_events(spark, config, AS_OF)
    assert world.found() == world.expected()
    events = read_table(spark, event_contract(config), config.root)
    assert {row["customer_id"] for row in events.where(events.event_time == old).collect()} == {"c1", "c2"}
    changed = changed_rows(
        spark,
        event_contract(config),
        config.root,
        after=before,
        until=table_version(spark, event_contract(config), config.root),
    )
    assert {row["customer_id"] for row in changed.select("customer_id").collect()} == {"c1", "c2"}
