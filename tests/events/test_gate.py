"""The gate: what stops a run, what warns, and what is left of the tables."""

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Check, Config, Expectation
from caspr_spark.errors import CasprError, ConfigError, GateError
from caspr_spark.events.gate import row_verdicts
from caspr_spark.gate import Validation, declared_verdicts
from caspr_spark.session import local_frame
from caspr_spark.tables import last_commit_notes, read_table
from pipelines.build_events import build_events
from pipelines.contracts import event_contract, profile_contract
from schemas.events import REJECTED
from tests.events.cases import AS_OF, config_of, visits

HEADER = "id,customer,at,amount\n"
GOOD = HEADER + "1,ann,2024-01-01T10:00:00Z,1\n2,bob,2024-01-02T10:00:00Z,2\n"
BAD = GOOD + "3,,2024-01-03T10:00:00Z,3\n4,cat,soon,4\n"
CHECK = Check(rule="n < 3", max_failed_share=0.7, on_fail="stop")


def contents(spark: SparkSession, config: Config) -> list[object]:
    """Version and rows of every table of the stage."""
    tables = [event_contract(config), profile_contract(config), REJECTED]
    versions = [last_commit_notes(spark, table, config.root)["version"] for table in tables]
    return [versions, *[sorted(map(str, read_table(spark, table, config.root).collect())) for table in tables]]


def of_file(folder: Path, text: str, **sections: Any) -> Config:
    """One source of this text, in a file of its own; all share one root."""
    raw = folder / f"{len(text)}.csv"
    raw.write_text(text)
    return config_of(folder, sources={"visits": visits(raw)}, **sections)


def test_stop_leaves_the_old_tables_warn_goes_on_and_a_rerun_changes_nothing(
    spark: SparkSession, tmp_path: Path
) -> None:
    good = of_file(tmp_path, GOOD)
    assert build_events(spark, good, AS_OF).changed
    before = contents(spark, good)

    again = build_events(spark, good, AS_OF)
    assert not again.changed
    assert (again.rows_in, again.rows_out) == (2, 2)
    assert contents(spark, good) == before

    with pytest.raises(GateError) as error:
        build_events(spark, of_file(tmp_path, BAD), AS_OF)
    assert error.value.exit_code == 3
    assert str(error.value).splitlines() == [
        "the gate stopped the run; the tables are as they were:",
        "  - visits: 1 of 4 rows break 'customer_present' (customer_id is not null and trim(customer_id) <> ''); "
        "1.00% may",
        "  - visits: 1 of 4 rows break 'time_present' (event_time is not null); 1.00% may",
        "mend the raw tables, or change the check's max_failed_share or on_fail in the configuration",
        f"Data Docs: {tmp_path}/root/data_docs/20240601T000000Z-events.html",
    ]
    assert contents(spark, good) == before

    with pytest.raises(GateError, match=r"'not_empty' .*found 0\n"):  # F35
        build_events(spark, of_file(tmp_path, HEADER), AS_OF)
    assert contents(spark, good) == before

    checks = {name: {"on_fail": "warn"} for name in ("customer_present", "time_present")}
    warned = build_events(spark, of_file(tmp_path, BAD + "\n", events={"checks": checks}), AS_OF)
    assert warned.rows_out == 2
    assert warned.notes == (
        "visits: 4 rows read = 2 taken + 0 duplicate + 2 rejected (customer_present 1, time_present 1)",
        "warning: visits: 1 of 4 rows break 'customer_present' (customer_id is not null and trim(customer_id) <> ''); "
        "1.00% may",
        "warning: visits: 1 of 4 rows break 'time_present' (event_time is not null); 1.00% may",
        f"Data Docs: {tmp_path}/root/data_docs/20240601T000000Z-events.html",
    )


def test_a_mended_file_is_seen_by_the_next_run_of_the_same_session(spark: SparkSession, tmp_path: Path) -> None:
    raw = tmp_path / "visits.csv"
    raw.write_text(BAD)
    config = config_of(tmp_path, sources={"visits": visits(raw)})
    with pytest.raises(GateError):
        build_events(spark, config, AS_OF)

    raw.write_text(GOOD)

    assert build_events(spark, config, AS_OF).rows_out == 2


def test_the_gate_is_shown_the_rows_of_this_run(spark: SparkSession, tmp_path: Path) -> None:
    """The same file with other content, in one session: nothing of the first look is kept."""
    numbers, failed = tmp_path / "numbers.csv", []
    for content in ("1\n2\n5\n", "4\n5\n"):
        numbers.write_text(content)
        rows = spark.read.schema("n int").csv(str(numbers)).select((F.col("n") >= 3).alias("met_large"))
        (verdict,) = row_verdicts({"numbers": (rows, {"large": CHECK})}).verdicts
        failed.append(verdict.failed_rows)

    assert failed == [2, 0]


@pytest.mark.parametrize(("num_rows", "passes"), [(10, True), (11, False)])
def test_exactly_the_share_that_may_fail_passes(spark: SparkSession, num_rows: int, passes: bool) -> None:
    rows = spark.range(num_rows).select((F.col("id") < 3).alias("met_small"))

    (verdict,) = row_verdicts({"numbers": (rows, {"small": CHECK})}).verdicts

    assert (verdict.check, verdict.passed, verdict.failed_rows) == ("numbers.small", passes, num_rows - 3)


def test_a_count_that_differs_from_great_expectations_is_our_fault(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Validation({"numbers: small": (True, {"unexpected_count": 6})})
    monkeypatch.setattr("caspr_spark.events.gate.validated", lambda *_, **__: wrong)
    rows = spark.range(10).select((F.col("id") < 3).alias("met_small"))

    with pytest.raises(CasprError, match="the gate counts 6 failing rows, Spark SQL 7"):
        row_verdicts({"numbers": (rows, {"small": CHECK})})


def test_an_expectation_on_the_events_may_warn_or_stop(spark: SparkSession) -> None:
    events = local_frame(spark, [("a", 1.0), ("b", 5.0), ("b", None)], "event_id string, amount double")
    gate = {
        "unique": Expectation(
            expectation="ExpectColumnValuesToBeUnique", arguments={"column": "event_id"}, on_fail="stop"
        ),
        "small": Expectation(
            expectation="ExpectColumnMaxToBeBetween", arguments={"column": "amount", "max_value": 9}, on_fail="warn"
        ),
    }

    unique, small = declared_verdicts(events, gate=gate, section="events", noun="events").verdicts

    assert (unique.passed, unique.failed_rows, unique.on_fail) == (False, 2, "stop")
    assert "2 events break it" in unique.detail
    assert (small.passed, small.failed_rows, small.on_fail) == (True, None, "warn")


@pytest.mark.parametrize(
    ("expectation", "arguments", "complaint"),
    [
        ("ExpectMiracles", {}, "Great Expectations has no 'ExpectMiracles'"),
        ("ExpectColumnValuesToNotBeNull", {"colunm": "x"}, "the arguments do not fit ExpectColumnValuesToNotBeNull"),
        ("ExpectColumnValuesToNotBeNull", {"column": "x"}, r"there is no column 'x' \(there are: id\)"),
    ],
)
def test_an_expectation_that_does_not_exist_is_a_mistake_in_the_configuration(
    spark: SparkSession, expectation: str, arguments: dict[str, str], complaint: str
) -> None:
    declared = Expectation.model_validate({"expectation": expectation, "arguments": arguments, "on_fail": "stop"})

    with pytest.raises(ConfigError, match=f"events.gate.mine: {complaint}"):
        declared_verdicts(spark.range(1), gate={"mine": declared}, section="events", noun="events")
