"""Every switch of the simulated bank (synthetic), from raw files to what the user gets of the refresh that meets them:
an alert that names what broke (exit code 4), a gate that stops (exit code 3, and the vectors of before are served), or
nothing where nothing is broken. `-s` prints what was seen."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.reader import read_latest
from caspr_spark.simulate.bank.faults import KINDS
from caspr_spark.tables import read_table
from pipelines.contracts import event_contract
from schemas.drift_metrics import DRIFT_METRICS
from tests.monitor.switched_bank import JUDGED_DAY, Outcome, SwitchedBank, as_of

ALERTS = {
    "page_renamed": "unknown values of page",
    "category_dropped": "category 'groceries'",
    "amounts_in_cents": "amount larger",
    "quiet_day": "source 'clicks'",
    "covid": "category 'restaurants'",
}
"""Switch -> what the alert names."""
GATES = {
    "corrupt": "readable",
    "column_retyped": "amount",
    "column_retyped.account_transactions": "numbers_readable",
    "clock_skew": "clicks: the newest event is 1.5 hours later than as_of",
}
"""Switch -> what the message names."""
HARMLESS = ("duplicated", "out_of_order", "column_added")
DAYS_AFTER = range(JUDGED_DAY + 1, JUDGED_DAY + 4)
"""Those in which the judged day's late rows arrive."""
FAST_PLANS = {
    "spark.sql.shuffle.partitions": "1",  # tables of a few thousand rows: what takes the time is planning and compiling
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
}


class Clean(NamedTuple):
    """What the judged day gives without a fault, and what the three days after it give at once, without one."""

    outcome: Outcome
    vectors: pa.Table
    after: Outcome
    vectors_after: pa.Table


@pytest.fixture(scope="module")
def quiet(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SwitchedBank, list[Outcome]]]:
    """The bank as of its last quiet day, and what its refreshes gave."""
    usual = {name: str(spark.conf.get(name)) for name in FAST_PLANS}
    for name, value in FAST_PLANS.items():
        spark.conf.set(name, value)
    bank = SwitchedBank(spark, tmp_path_factory.mktemp("bank"))
    yield bank, bank.live_quietly()
    for name, value in usual.items():
        spark.conf.set(name, value)


@pytest.fixture(scope="module")
def bank(quiet: tuple[SwitchedBank, list[Outcome]]) -> SwitchedBank:
    return quiet[0]


@pytest.fixture(scope="module")
def clean(bank: SwitchedBank) -> Clean:
    bank.simulate("clean", range(JUDGED_DAY, DAYS_AFTER.stop))
    outcome = bank.refreshed_copy("clean")
    vectors = served(outcome)
    after = bank.refreshed("clean", *DAYS_AFTER)
    return Clean(outcome, vectors, after, served(after))


@pytest.fixture
def switched(bank: SwitchedBank, fault: str) -> Outcome:
    """What the judged day gives under a fault."""
    bank.simulate(fault, range(JUDGED_DAY, JUDGED_DAY + 1), fault)
    return shown(bank.refreshed_copy(fault))


def served(outcome: Outcome) -> pa.Table:
    """The vectors that readers get, by customer."""
    return read_latest(outcome.config.root)


def shown(outcome: Outcome) -> Outcome:
    charts = [str(chart) for alert in outcome.alerts for chart in alert["beyond_limits"]]
    print(f"\nexit code {outcome.exit_code}", outcome.error, *charts, *outcome.notes, sep="\n  ")
    return outcome


def largest_difference(ours: pa.Table, theirs: pa.Table) -> float:
    """Of any coordinate, of customers whose vectors are as of the same time; there must be some."""
    both = ours.to_pandas().merge(theirs.to_pandas(), on=["customer_id", "as_of"], how="inner")
    pairs = [np.stack(both[f"embedding_{side}"].to_list()) for side in "xy"]
    return float(np.abs(pairs[0] - pairs[1]).max())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_f80_quiet_days_and_a_clean_one_raise_no_alert(quiet: tuple[SwitchedBank, list[Outcome]], clean: Clean) -> None:
    outcomes = [shown(one) for one in (*quiet[1], clean.outcome, clean.after)]  # the last one catches up on three days
    assert [(one.exit_code, one.error, one.alerts) for one in outcomes] == [(0, "", [])] * len(outcomes)
    assert any(note.startswith("nothing beyond what") for note in clean.outcome.notes)  # a verdict was given


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", ALERTS)
def test_f81_a_switch_that_breaks_the_data_raises_an_alert_that_names_it(
    bank: SwitchedBank, switched: Outcome, fault: str
) -> None:
    assert switched.exit_code == 4
    (alert,) = switched.alerts
    assert any(chart["what"].startswith(ALERTS[fault]) for chart in alert["beyond_limits"])
    drift = read_table(bank.spark, DRIFT_METRICS, switched.config.root)
    assert not drift.where((F.col("as_of") == F.lit(as_of(JUDGED_DAY))) & (F.col("measure") == "alert")).isEmpty()
    assert as_of(JUDGED_DAY) in served(switched)["as_of"].to_pylist()  # an alert stops nothing


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", GATES)
def test_f81_a_switch_that_breaks_rows_is_stopped_and_the_last_vectors_are_served(
    bank: SwitchedBank, switched: Outcome, fault: str
) -> None:
    assert switched.exit_code == 3
    assert GATES[fault] in switched.error
    assert served(switched).equals(read_latest(bank.config("quiet").root))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_f33_f50_f51_what_breaks_nothing_raises_no_alert_and_changes_no_vector(
    bank: SwitchedBank, clean: Clean
) -> None:
    bank.simulate("harmless", range(JUDGED_DAY, JUDGED_DAY + 1), *HARMLESS)
    outcome = shown(bank.refreshed_copy("harmless"))
    assert (outcome.exit_code, outcome.error, outcome.alerts) == (0, "", [])
    ours, theirs = served(outcome), clean.vectors
    assert ours.select(["customer_id", "as_of"]).equals(theirs.select(["customer_id", "as_of"]))
    assert largest_difference(ours, theirs) < 1e-5
    (reported,) = [note for note in outcome.notes if "new column" in note]
    assert (
        f"clicks: new column 'app_version' (e.g. in file:{bank.folder}/raw/clicks/batch-0000{JUDGED_DAY}/" in reported
    )
    assert "is not declared: ignored" in reported


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_f52_late_rows_raise_no_alert_and_change_no_vector_once_they_are_there(
    bank: SwitchedBank, clean: Clean
) -> None:
    bank.simulate("late", range(JUDGED_DAY, DAYS_AFTER.stop), f"late={JUDGED_DAY}")
    outcomes = [shown(bank.refreshed_copy("late")), shown(bank.refreshed("late", *DAYS_AFTER))]
    assert [(one.exit_code, one.error, one.alerts) for one in outcomes] == [(0, "", [])] * 2
    last = outcomes[1]
    ours, theirs = (read_table(bank.spark, event_contract(one.config), one.config.root) for one in (last, clean.after))
    assert ours.exceptAll(theirs).isEmpty()
    assert theirs.exceptAll(ours).isEmpty()
    vectors, expected = served(last), clean.vectors_after
    assert vectors["customer_id"].equals(expected["customer_id"])
    assert largest_difference(vectors, expected) < 1e-5
    newer = vectors["as_of"].to_pandas() != expected["as_of"].to_pandas()
    assert newer.mean() < 0.2  # customers of whom nothing but late rows came


def test_f81_every_switch_is_tried_and_on_the_page() -> None:
    tried = [*ALERTS, *GATES, *HARMLESS, "late"]
    assert {fault.partition(".")[0] for fault in tried} == set(KINDS)
    page = Path(__file__).parents[2] / "docs" / "monitoring.md"
    rows = [line.split("|")[1].strip() for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert {f"`{fault}`" for fault in tried} <= set(rows)
