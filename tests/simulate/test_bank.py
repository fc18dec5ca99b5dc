"""The invented bank: its rows depend on seed, customer and day alone, and batches are written whole and once."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from pyspark.sql import DataFrame, SparkSession

import pipelines.simulate_bank as pipeline
from caspr_spark.config_file import load_config
from caspr_spark.errors import ConfigError
from caspr_spark.simulate.bank import batches as bank_batches
from caspr_spark.simulate.bank.batches import batch_folder, batch_rows
from caspr_spark.simulate.bank.customers import Bank, customer_days, customers
from caspr_spark.simulate.bank.journeys import JOURNEYS
from caspr_spark.simulate.bank.tables import TABLES
from caspr_spark.simulate.bank.visits import clicks
from caspr_spark.tables import read_table
from pipelines.build_events import build_events
from pipelines.contracts import event_contract
from pipelines.simulate_bank import simulate_bank

ROOT = Path(__file__).parents[2]

START = datetime(2024, 2, 27, 9, 30, tzinfo=UTC)  # not at midnight, and a leap day follows
BANK = Bank(num_customers=300, start=START, seed=5)


def row_set(frame: DataFrame, *without: str) -> list[tuple[object, ...]]:
    rows = frame.drop(*without).collect()
    assert len({tuple(row) for row in rows}) == len(rows)
    return sorted(tuple(row) for row in rows)


@pytest.mark.parametrize("name", TABLES)
def test_rows_depend_neither_on_partitions_nor_on_how_time_is_cut(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    table = TABLES[name]
    of_24_hours = batch_rows(spark, BANK, table, hours=24, batches=range(12))
    one_partition = of_24_hours.rdd.getNumPartitions()
    monkeypatch.setattr(bank_batches, "ROWS_PER_FILE", BANK.num_customers * 5 * 7 // 6)
    later_of_48_hours = batch_rows(spark, BANK, table, hours=48, batches=range(3, 6))
    assert (one_partition, later_of_48_hours.rdd.getNumPartitions()) == (1, 7)

    expected = row_set(of_24_hours.where("batch >= 6"), "batch")
    assert len(expected) > 0
    assert row_set(later_of_48_hours, "batch") == expected


def test_another_seed_is_another_bank(spark: SparkSession) -> None:
    other = Bank(BANK.num_customers, START, seed=6)
    table = TABLES["card_transactions"]
    mine, theirs = (set(row_set(batch_rows(spark, b, table, hours=24, batches=range(1)))) for b in (BANK, other))
    assert mine.isdisjoint(theirs)


def test_a_batch_holds_the_rows_from_its_begin_up_to_its_end(spark: SparkSession) -> None:
    rows = batch_rows(spark, BANK, TABLES["card_transactions"], hours=6, batches=range(2, 9)).toPandas()
    hours = (rows["booked_at"] - pd.Timestamp(START).tz_localize(None)) / pd.Timedelta(hours=6)
    assert (hours.astype(int) == rows["batch"]).all()
    assert rows["batch"].nunique() > 3


def test_equal_pages_in_another_order_lead_elsewhere(spark: SparkSession) -> None:
    """The direction of a journey changes the order of its pages alone, and the share of outcomes."""
    bank = Bank(4000, START, seed=2)
    known = customers(spark, bank, until_day=bank.first_day + 27, num_partitions=2)
    days = customer_days(known, bank, from_day=bank.first_day, to_day=bank.first_day + 27)
    episodes = days.where("episode_day = 0").select("customer", "episode.*").toPandas()
    journeys = episodes[episodes["kind"].isin(JOURNEYS)]
    shares = journeys.groupby("forward")["outcome_day"].agg(lambda day: day.notna().mean())
    assert shares[True] == pytest.approx(0.85, abs=0.04)
    assert shares[False] == pytest.approx(0.08, abs=0.04)

    at_home = clicks(days.where("episode_day in (0, 2) and episode.kind = 'leaving'"), bank).toPandas()
    visits = at_home[at_home["click_id"].str.split("-").str[2].isin(["2", "3"])].sort_values("clicked_at")
    first, second = JOURNEYS["leaving"].steps
    visit = visits["click_id"].str.rsplit("-", n=1).str[0]
    pages = visits[~visits["page"].isin(["login", "overview"])].groupby(visit)["page"].agg(list)
    assert {tuple(one[:2]) for one in pages} == {first, first[::-1], second, second[::-1]}


@pytest.mark.slow
def test_nobody_acts_before_joining_or_after_leaving(spark: SparkSession) -> None:
    bank = Bank(1500, START, seed=3)
    records, acts = (
        batch_rows(spark, bank, TABLES[name], hours=24, batches=range(20)).toPandas()
        for name in ("accounts", "card_transactions")
    )
    closed = records[records["status"] == "closed"].set_index("customer_id")["valid_from"]
    opened = records[records["status"] == "open"].groupby("customer_id")["valid_from"].min()
    assert closed.index.is_unique
    assert len(closed) > 20
    assert (opened > START.replace(tzinfo=None)).sum() > 5  # some join later
    timed = acts.assign(opened=acts["customer_id"].map(opened), closed=acts["customer_id"].map(closed))
    assert (timed["booked_at"] >= timed["opened"]).all()
    assert not (timed["booked_at"] > timed["closed"]).any()


@pytest.mark.slow
def test_pay_days_moves_and_takeovers_leave_their_rows(spark: SparkSession) -> None:
    bank = Bank(700, START, seed=3)
    bookings, records, takeovers, visits = (
        batch_rows(spark, bank, TABLES[name], hours=24, batches=range(30)).toPandas()
        for name in ("account_transactions", "accounts", "takeovers", "clicks")
    )
    salaries = bookings[bookings["kind"] == "salary"]
    assert (salaries.groupby("customer_id")["booked_at"].agg(lambda times: times.dt.day.nunique()) == 1).all()
    still_open = records[records["status"] == "open"].sort_values("valid_from")
    homes = still_open.groupby("customer_id")["region"].agg([tuple, "nunique", "size"])
    assert (homes["size"] > 1).sum() > 10
    assert (homes["nunique"] == homes["size"]).all()  # each move is to another region
    assert len(takeovers) > 5
    assert (takeovers["reported_at"] > takeovers["taken_over_at"]).all()
    stolen = bookings[bookings["counterparty"] == "new payee"].groupby("customer_id")["amount"].sum()
    lost = takeovers.set_index("customer_id")["amount_lost"]
    once = lost[lost.index.isin(stolen.index) & ~lost.index.duplicated(keep=False)]  # theft and report are both here
    assert len(once) > 5
    pd.testing.assert_series_equal(-stolen[once.index].round(2), once, check_names=False)
    strange = visits[visits["device"] == "unknown device"]["customer_id"]
    assert set(stolen.index) <= set(strange)


@pytest.fixture
def two_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TABLES", {name: TABLES[name] for name in ("takeovers", "clicks")})


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("part-*"))}


@pytest.mark.usefixtures("two_tables")
def test_a_larger_number_of_batches_continues_and_changes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    world: dict[str, Any] = {"num_customers": 40, "start": START, "hours": 12, "seed": 1}
    first = simulate_bank(spark, tmp_path / "bank", num_batches=2, faults=["late=1-:0.5"], **world)
    before = contents(tmp_path / "bank")
    again = simulate_bank(spark, tmp_path / "bank", num_batches=2, faults=["late=1-:0.5"], **world)
    assert (first.changed, again.changed) == (True, False)
    more = simulate_bank(spark, tmp_path / "bank", num_batches=4, **world)
    after = contents(tmp_path / "bank")

    assert before.items() <= after.items()
    assert {path.parent.name for path in after if "clicks" in path.parts} == {f"batch-00000{k}" for k in range(4)}
    at_once = simulate_bank(spark, tmp_path / "whole", num_batches=4, faults=["late=1-:0.5"], **world)
    assert first.rows_out + more.rows_out == at_once.rows_out  # the late rows of batch 1 came in batch 2 or 3
    lines = [sorted(b"".join(contents(tmp_path / name).values()).splitlines()) for name in ("bank", "whole")]
    assert lines[0] == lines[1]
    header_only = contents(batch_folder(tmp_path / "bank", "takeovers", 0))
    assert [content.decode().split(",")[0] for content in header_only.values()] == ["takeover_id"]
    assert not list((tmp_path / "bank").glob(".writing*"))
    record = json.loads((tmp_path / "bank" / "simulation.json").read_text())
    assert record["label"].startswith("synthetic")
    assert record["faults"] == {"late=1-:0.5": 0}

    with pytest.raises(ConfigError, match=r"another simulated bank \(seed 1, not 2\)"):
        simulate_bank(spark, tmp_path / "bank", num_batches=9, **{**world, "seed": 2})
    with pytest.raises(ConfigError, match=r"'late=0-2': its batches are written already; the next is 4"):
        simulate_bank(spark, tmp_path / "bank", num_batches=9, faults=["late=0-2"], **world)


@pytest.mark.usefixtures("two_tables")
def test_f05_a_batch_that_was_seen_is_not_replaced_after_a_kill(spark: SparkSession, tmp_path: Path) -> None:
    world: dict[str, Any] = {"num_customers": 30, "start": START, "hours": 12, "seed": 1, "num_batches": 1}
    seen = batch_folder(tmp_path, "takeovers", 0)  # a run was killed after its first table
    seen.mkdir(parents=True)
    (seen / "part-0.csv").write_text("takeover_id\n")
    (tmp_path / ".writing-clicks").mkdir()
    (tmp_path / ".writing-clicks" / "half").write_text("{")

    simulate_bank(spark, tmp_path, **world)

    assert [path.name for path in seen.iterdir()] == ["part-0.csv"]
    assert len(contents(tmp_path / "clicks")) == 1
    assert not list(tmp_path.glob(".writing*"))


@pytest.mark.slow
def test_the_declared_files_become_events_and_planted_sessions_are_found(spark: SparkSession, tmp_path: Path) -> None:
    made = simulate_bank(spark, tmp_path / "raw", num_customers=60, start=START, num_batches=3, hours=72, seed=1)
    declared = yaml.safe_load((ROOT / "conf" / "bank.yaml").read_text())
    overlay: dict[str, Any] = {"root": str(tmp_path / "root")}
    for kind in ("sources", "profiles"):
        place = {name: table["path"].replace("data/bank", str(tmp_path)) for name, table in declared[kind].items()}
        overlay[kind] = {name: {"path": path} for name, path in place.items()}
    (tmp_path / "here.yaml").write_text(yaml.safe_dump(overlay))
    config = load_config([ROOT / "conf" / "bank.yaml", tmp_path / "here.yaml"])

    summary = build_events(spark, config, START + timedelta(days=7))

    assert {*config.sources, *config.profiles} == set(TABLES)
    assert summary.rows_in == made.rows_out
    assert all("+ 0 duplicate + 0 rejected" in note for note in summary.notes)
    events = read_table(spark, event_contract(config), config.root).where("source = 'clicks'")
    ids = events.select("event_id", "session_id").collect()
    found = {key_of(row["event_id"]): key_of(row["session_id"]) for row in ids}
    bank = Bank(60, START, seed=1)
    planted = batch_rows(spark, bank, TABLES["clicks"], hours=72, batches=range(3)).toPandas().sort_values("clicked_at")
    clicks_of = planted.groupby("true_session")["click_id"].agg(list)
    expected = {click: clicks[0] for clicks in clicks_of for click in clicks}
    assert len(clicks_of) > planted["click_id"].str.rsplit("-", n=1).str[0].nunique()  # some stood idle in between
    assert found == expected


def key_of(event_id: str) -> str:
    """The raw key in an event's id."""
    return re.split("[:/]", event_id)[-1]
