"""Each switch of the invented bank does what its description says, to the batches that it names and to no other."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from caspr_spark.errors import ConfigError
from caspr_spark.simulate.bank.batches import batch_folder, batch_rows, write_batches
from caspr_spark.simulate.bank.customers import Bank
from caspr_spark.simulate.bank.faults import FAULT_DESCRIPTIONS, parsed_faults, shifts
from caspr_spark.simulate.bank.tables import TABLES

START = datetime(2024, 3, 1, tzinfo=UTC)
BANK = Bank(num_customers=150, start=START, seed=11)
HOURS, NUM_BATCHES = 24, 5
Rows = Callable[..., pd.DataFrame]
Files = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def rows_of(spark: SparkSession) -> Rows:
    """Rows of a table under faults, sorted by key; clean ones are made once."""
    known: dict[tuple[str, ...], pd.DataFrame] = {}

    def made(name: str, *texts: str) -> pd.DataFrame:
        if (name, *texts) not in known:
            faults = parsed_faults(texts)
            bank = Bank(BANK.num_customers, START, BANK.seed, shifts=shifts(faults, start=START, hours=HOURS))
            rows = batch_rows(spark, bank, TABLES[name], hours=HOURS, batches=range(NUM_BATCHES), faults=faults)
            known[(name, *texts)] = rows.toPandas().sort_values([*TABLES[name].key, "batch"], ignore_index=True)
        return known[(name, *texts)]

    return made


@pytest.fixture(scope="module")
def files(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The raw file of a table and batch: 0 is clean, 1 has broken rows, 2 other columns and another order, or none."""
    folder = tmp_path_factory.mktemp("bank")
    faults = parsed_faults(
        [
            "corrupt=1:0.2",
            "out_of_order=2",
            "column_added=2",
            "column_added.card_transactions=2",
            "column_retyped=2",
            "quiet_day.account_transactions=2",
        ]
    )
    for name in ("clicks", "account_transactions", "card_transactions"):
        write_batches(spark, BANK, TABLES[name], folder, hours=HOURS, batches=range(3), faults=faults)

    def file(name: str, batch: int) -> Path:
        (found,) = batch_folder(folder, name, batch).glob("part-*")
        return found

    return file


def in_batch(rows: pd.DataFrame, batch: int) -> pd.DataFrame:
    return rows[rows["batch"] == batch].reset_index(drop=True)


def in_others(rows: pd.DataFrame, batch: int) -> pd.DataFrame:
    return rows[rows["batch"] != batch].reset_index(drop=True)


def test_f52_late_rows_arrive_in_later_batches_and_none_is_lost(rows_of: Rows) -> None:
    clean, late = rows_of("clicks"), rows_of("clicks", "late=0-1:0.3")
    arrival = late.set_index("click_id")["batch"]
    made = clean.set_index("click_id")["batch"]
    assert sorted(late["click_id"]) == sorted(clean["click_id"])  # all within the five batches
    delay = (arrival - made)[made.index]
    assert set(delay[made <= 1]) == {0, 1, 2, 3}
    assert (delay[made <= 1] > 0).mean() == pytest.approx(0.3, abs=0.06)
    assert (delay[made > 1] == 0).all()
    pd.testing.assert_frame_equal(clean.drop(columns="batch"), late.drop(columns="batch"))


def test_f50_duplicated_rows_are_equal_and_come_at_once_or_with_the_next_batch(rows_of: Rows) -> None:
    clean, sent = rows_of("card_transactions"), rows_of("card_transactions", "duplicated=2:0.4")
    twice = sent[sent.duplicated("card_transaction_id", keep=False)]
    assert len(sent) - len(clean) == len(twice) / 2
    assert len(twice) / 2 / len(in_batch(clean, 2)) == pytest.approx(0.4, abs=0.12)
    assert set(twice["batch"]) == {2, 3}
    once = sent.drop_duplicates("card_transaction_id").reset_index(drop=True)
    pd.testing.assert_frame_equal(once, clean)


def test_rows_sent_again_are_there_when_batches_are_made_one_by_one(spark: SparkSession, rows_of: Rows) -> None:
    table, text = TABLES["card_transactions"], "duplicated=2:0.4"
    rows = batch_rows(spark, BANK, table, hours=HOURS, batches=range(3, 4), faults=parsed_faults([text]))
    alone = rows.toPandas().sort_values([*table.key, "batch"], ignore_index=True)
    pd.testing.assert_frame_equal(alone, in_batch(rows_of(table.name, text), 3))


def test_f55_the_apps_clock_is_ahead(rows_of: Rows) -> None:
    clean, skewed = rows_of("clicks"), rows_of("clicks", "clock_skew=3:45")
    ahead = skewed["clicked_at"] - clean["clicked_at"]
    is_skewed = (clean["batch"] == 3) & (clean["channel"] == "app")
    assert (ahead[is_skewed] == pd.Timedelta(minutes=45)).all()
    assert (ahead[~is_skewed] == pd.Timedelta(0)).all()
    assert 0 < is_skewed.sum() < len(clean)
    assert (skewed["batch"] == clean["batch"]).all()


def test_f81_a_page_has_another_name(rows_of: Rows) -> None:
    clean, renamed = rows_of("clicks"), rows_of("clicks", "page_renamed=2-")
    changed = clean["page"] != renamed["page"]
    assert set(clean["page"][changed]) == {"payments"}
    assert set(renamed["page"][changed]) == {"payments_new"}
    assert set(clean["batch"][changed]) == {2, 3, 4}
    assert "payments" not in set(renamed["page"][renamed["batch"] >= 2])


def test_f81_a_category_is_missing(rows_of: Rows) -> None:
    clean, dropped = rows_of("card_transactions"), rows_of("card_transactions", "category_dropped=1")
    assert "groceries" in set(in_batch(clean, 1)["category"])
    kept = clean[(clean["batch"] != 1) | (clean["category"] != "groceries")].reset_index(drop=True)
    pd.testing.assert_frame_equal(dropped, kept)


def test_f81_amounts_are_in_cents(rows_of: Rows) -> None:
    clean, cents = rows_of("card_transactions"), rows_of("card_transactions", "amounts_in_cents=1")
    factors = (cents["amount"] / clean["amount"]).round(9)
    assert set(factors[clean["batch"] == 1]) == {100.0}
    assert set(factors[clean["batch"] != 1]) == {1.0}


def test_f35_a_quiet_day_has_no_rows(rows_of: Rows, files: Files) -> None:
    clean, quiet = rows_of("clicks"), rows_of("clicks", "quiet_day=2")
    pd.testing.assert_frame_equal(quiet, in_others(clean, 2))
    some = rows_of("clicks", "quiet_day=2:0.1")
    assert 0 < len(in_batch(some, 2)) < 0.2 * len(in_batch(clean, 2))

    assert not files("account_transactions", 1).parent.with_name("batch-000002").exists()


def test_f51_out_of_order_rows_are_the_same_in_another_order(files: Files) -> None:
    times = [[json.loads(line)["clicked_at"] for line in lines_of(files("clicks", batch))] for batch in (0, 2)]
    assert times[0] == sorted(times[0])
    assert times[1] != sorted(times[1])


def test_f30_corrupt_rows_break_lines_and_numbers(files: Files) -> None:
    broken = [sum(not is_json(line) for line in lines_of(files("clicks", batch))) for batch in range(3)]
    assert [count > 0 for count in broken] == [False, True, False]

    bookings = [pd.read_csv(files("account_transactions", k), dtype=str, keep_default_na=False) for k in (0, 1)]
    assert not (bookings[0]["amount"] == "n/a").any()
    assert 0 < (bookings[1]["amount"] == "n/a").mean() < 0.5

    amounts = [pq.read_table(files("card_transactions", batch))["amount"].to_pandas() for batch in (0, 1)]
    assert amounts[0].notna().all()
    assert 0 < amounts[1].isna().mean() < 0.5


def test_f33_a_column_is_added(files: Files) -> None:
    keys = [set(json.loads(lines_of(files("clicks", batch))[0])) for batch in (0, 2)]
    assert keys[1] - keys[0] == {"app_version"}
    columns = [pq.read_schema(files("card_transactions", batch)).names for batch in (0, 2)]
    assert columns[1] == [*columns[0], "app_version"]


def test_f34_a_column_is_text(files: Files) -> None:
    amounts = [pq.read_table(files("card_transactions", batch))["amount"] for batch in range(3)]
    assert [str(column.type) for column in amounts] == ["double", "double", "string"]
    assert amounts[2].to_pandas().str.fullmatch(r"[0-9.]+ units").all()


@pytest.mark.slow
def test_in_a_pandemic_everyone_behaves_otherwise(rows_of: Rows) -> None:
    for name, group, less, more in (
        ("card_transactions", "category", "restaurants", "groceries"),
        ("account_transactions", "kind", "cash", None),
    ):
        clean, shifted = rows_of(name), rows_of(name, "covid=2-")
        before = [rows[rows["batch"] < 2].reset_index(drop=True) for rows in (clean, shifted)]
        pd.testing.assert_frame_equal(before[0], before[1])
        counts = [rows[rows["batch"] >= 2][group].value_counts() for rows in (clean, shifted)]
        assert counts[1].get(less, 0) < 0.5 * counts[0][less]
        assert more is None or counts[1][more] > 1.1 * counts[0][more]
    assert len(in_batch(rows_of("clicks", "covid=2-"), 3)) > 1.3 * len(in_batch(rows_of("clicks"), 3))


def test_the_docs_describe_every_fault() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text().splitlines()
    described = {line.split(" | ")[0].strip("|` "): line.split(" | ")[1] for line in lines if line.startswith("| `")}
    assert FAULT_DESCRIPTIONS.items() <= described.items()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lat", f"no fault 'lat'; did you mean late? There are {', '.join(FAULT_DESCRIPTIONS)}"),
        ("nonsense", f"no fault 'nonsense'; There are {', '.join(FAULT_DESCRIPTIONS)}"),
        ("late=x", "expected NAME[.TABLE][=BATCHES[:STRENGTH]]"),
        ("late=4-2", "4-2 ends before it begins"),
        ("late=1--2", "batches: expected such as 3, 2-4, 2- or 2-4,7, found '1--2'"),
        ("late=1:7", "expected a number from 0 to 1, found '7'"),
        ("late=1:1.2.3", "expected a number from 0 to 1, found '1.2.3'"),
        ("covid=1:0.5", "it has no strength, found ':0.5'"),
        ("page_renamed.calls=1", "'page_renamed' does not act on 'calls'; tables: clicks"),
    ],
)
def test_a_wrong_fault_is_refused_with_what_is_known(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed_faults(["quiet_day", text])
    assert said in str(refused.value)
    assert text in str(refused.value)


def test_faults_are_read_as_written() -> None:
    late, quiet, again = parsed_faults(["late", "quiet_day.calls=3", "duplicated=1-2,5-:0.25"])
    assert (late.tables, late.batches, late.strength) == (tuple(TABLES), ((0, None),), 0.05)
    assert (quiet.tables, quiet.batches, quiet.strength) == (("calls",), ((3, 3),), 0.0)
    assert (again.batches, again.strength) == (((1, 2), (5, None)), 0.25)
    assert [again.is_active(batch) for batch in range(7)] == [False, True, True, False, False, True, True]


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()


def is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
