"""A declaration that does not fit the raw tables is told in the user's words; odd tables are read all the same."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.errors import CasprError, ConfigError, SchemaError
from caspr_spark.events.activities import activities, with_sessions
from caspr_spark.events.arrivals import current_position
from caspr_spark.events.sources import judged_tables
from tests.events.cases import LENIENT, config_of, visits

CSV = "id,customer,at,amount\n1,ann,2024-01-01T10:00:00Z,1\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "visits.csv").write_text(CSV)
    return tmp_path / "visits.csv"


def complaint(
    spark: SparkSession, folder: Path, sources: dict[str, Any], *, kind: type[CasprError] = ConfigError
) -> str:
    config = config_of(folder, LENIENT, sources=sources)

    def opened() -> None:  # what the step does first
        current_position(spark, config, version="1")
        judged_tables(spark, config)

    with pytest.raises(kind) as error:
        opened()
    assert error.value.exit_code == (3 if kind is SchemaError else 2)
    assert "Exception" not in str(error.value)
    return str(error.value)


def test_f32_missing_columns_are_all_named_with_what_is_there(spark: SparkSession, tmp_path: Path, raw: Path) -> None:
    first = visits(raw, time={"column": "booked_at"}, key=["id", "line"], attributes={"spend": {"kind": "numerical"}})
    found = complaint(spark, tmp_path, {"first": first, "second": visits(raw, entity="household")}, kind=SchemaError)

    there = "is not in the table (it has: id, customer, at, amount)"
    assert found.splitlines() == [
        "the tables are not as declared:",
        f"  - sources.first.attributes.spend: column 'spend' {there}",
        f"  - sources.first.time.column: column 'booked_at' {there}",
        f"  - sources.first.key: column 'line' {there}",
        f"  - sources.second.entity: column 'household' {there}",
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"path": "/nowhere/visits.csv"}, "sources.visits: cannot open /nowhere/visits.csv"),
        ({"path": "/nowhere/visits", "format": "delta"}, "sources.visits: cannot open /nowhere/visits"),
        ({"path": "${CASPR_NOT_SET}/visits.csv"}, "sources.visits: the environment variable CASPR_NOT_SET is not set"),
        (
            {"path": "package://no_such_package/x.csv"},
            "sources.visits.path: the Python package 'no_such_package' is not installed",
        ),
        ({"filter": "amuont > 1"}, "sources.visits.filter: [UNRESOLVED_COLUMN"),
        ({"filter": "amount >"}, "sources.visits.filter: [PARSE_SYNTAX_ERROR]"),
        (
            {"attributes": {"amount": {"kind": "numerical", "expression": "amount * amuont"}}},
            "sources.visits.attributes.amount: [UNRESOLVED_COLUMN",
        ),
        (
            {"attributes": {"amount": {"kind": "numerical", "expression": "amount * amount"}}},
            "columns of csv and json are text: write try_cast(COLUMN as double)",
        ),
        (
            {"attributes": {"amount": {"kind": "numerical", "expression": "array(amount)"}}},
            "sources.visits.attributes.amount: [DATATYPE_MISMATCH",
        ),
        (
            {"checks": {"mine": {"rule": "amuont > 1", "max_failed_share": 0, "on_fail": "stop"}}},
            "sources.visits.checks.mine.rule: [UNRESOLVED_COLUMN",
        ),
        (
            {"lookups": {"goods": {"format": "csv", "path": "/nowhere", "on": {"id": "id"}, "columns": {"a": "b"}}}},
            "sources.visits.lookups.goods: cannot open /nowhere",
        ),
    ],
)
def test_a_declaration_that_does_not_fit_is_exit_2(
    spark: SparkSession, tmp_path: Path, raw: Path, changes: dict[str, Any], text: str
) -> None:
    assert text in complaint(spark, tmp_path, {"visits": visits(raw, **changes)})


def test_a_time_that_is_a_list_is_a_mistake_in_the_declaration(spark: SparkSession, tmp_path: Path) -> None:
    table = tmp_path / "visits.parquet"
    spark.sql("select 1 as id, 'ann' as customer, array(1) as at, 1.0 as amount").write.parquet(str(table))

    found = complaint(
        spark, tmp_path, {"visits": visits(table, format="parquet", time={"column": "at", "zone": "UTC"})}
    )

    assert "sources.visits: the time cannot be read: [DATATYPE_MISMATCH" in found


def test_a_session_rule_that_does_not_fit_is_a_mistake_in_the_declaration(
    spark: SparkSession, tmp_path: Path, raw: Path
) -> None:
    sessions = {"idle_minutes": 30, "starts_when": "pge = 'login'"}
    config = config_of(tmp_path, LENIENT, sources={"visits": visits(raw, sessions=sessions)})
    events = events_of(spark, config_of(tmp_path, LENIENT, sources={"visits": visits(raw)}))

    with pytest.raises(ConfigError, match=r"sessions.starts_when \(pge = 'login'\): \[UNRESOLVED_COLUMN"):
        with_sessions(events, sessions=config.sources["visits"].sessions)


def events_of(spark: SparkSession, config: Any) -> DataFrame:
    """The activities of the source `visits`."""
    taken, source = judged_tables(spark, config)["visits"].rows.where("ending is null"), config.sources["visits"]
    return activities(taken, source="visits", key=source.key, group=source.group, attributes=source.attributes)


def test_a_lookup_key_that_stands_twice_is_refused_but_missing_keys_are_not(
    spark: SparkSession, tmp_path: Path, raw: Path
) -> None:
    lookup = {"format": "csv", "path": str(tmp_path / "goods.csv"), "on": {"id": "id"}, "columns": {"kind": "kind"}}
    config = config_of(tmp_path, LENIENT, sources={"visits": visits(raw, lookups={"goods": lookup})})

    (tmp_path / "goods.csv").write_text("id,kind\n1,a\n,b\n,c\n")
    assert judged_tables(spark, config)["visits"].rows.select("raw_row.kind").collect()[0]["kind"] == "a"

    (tmp_path / "goods.csv").write_text("id,kind\n1,a\n1,b\n")
    with pytest.raises(
        CasprError, match=r"the key \['id'\] must stand once in the table, but it is repeated for \('1',"
    ):
        judged_tables(spark, config)


def test_rows_without_a_key_that_differ_in_a_microsecond_are_two_events(spark: SparkSession, tmp_path: Path) -> None:
    table = tmp_path / "visits.parquet"
    times = spark.range(3).selectExpr(
        "'ann' as customer", "timestamp_micros(1705320000000001 + id) as at", "timestamp_ntz'2024-01-01' as day"
    )
    times.write.parquet(str(table))
    source = visits(table, format="parquet", key=[], attributes={"day": {"kind": "categorical"}})

    events = events_of(spark, config_of(tmp_path, LENIENT, sources={"visits": source})).collect()

    assert len({row["event_id"] for row in events}) == 3


def test_the_fingerprint_of_the_inputs_changes_with_the_files(spark: SparkSession, tmp_path: Path, raw: Path) -> None:
    config = config_of(tmp_path, LENIENT, sources={"visits": visits(raw)})
    before = current_position(spark, config, version="1").fingerprint

    assert current_position(spark, config, version="1").fingerprint == before
    assert current_position(spark, config, version="2").fingerprint != before
    raw.write_text(CSV + "2,bob,2024-01-01T10:00:00Z,1\n")
    assert current_position(spark, config, version="1").fingerprint != before


def test_f51_the_order_and_the_files_of_the_rows_do_not_change_the_events(spark: SparkSession, tmp_path: Path) -> None:
    random = Random(5)
    lines = []
    for _ in range(200):
        number, customer, day = random.randrange(20), random.randrange(3), random.randint(1, 3)
        lines.append(f"{number},c{customer},2024-01-0{day}T10:00:00Z,{random.randrange(8) / 4}")
    attributes = {
        "amount": {"kind": "numerical", "aggregate": "sum"},
        "top": {"kind": "categorical", "column": "id", "aggregate": "most_frequent"},
        "ids": {"kind": "set", "column": "id", "aggregate": "distinct", "max_values": 4},
    }
    found = []
    for number, num_files in enumerate((1, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        random.shuffle(lines)
        for part in range(num_files):
            (folder / f"{part}.csv").write_text("\n".join(["id,customer,at,amount", *lines[part::num_files], ""]))
        source = visits(folder, key=[], attributes=attributes, group={"by": ["at"]}, sessions={"idle_minutes": 2000})
        config = config_of(tmp_path, LENIENT, sources={"visits": source})
        events = with_sessions(events_of(spark, config), sessions=config.sources["visits"].sessions)
        found.append([str(row) for row in events.repartition(num_files).orderBy("event_id").collect()])

    assert found[0] == found[1]
    assert len(found[0]) == 9  # customers and days


def test_a_null_in_a_key_identifies_nothing(spark: SparkSession, tmp_path: Path) -> None:
    table = tmp_path / "visits.csv"
    table.write_text(
        "id,line,customer,at,amount\n"
        "1,,ann,2024-01-01T10:00:00Z,5\n"
        "1,,ann,2024-01-01T11:00:00Z,6\n"  # as much another row as the next
        "1,,bob,2024-01-01T11:00:00Z,6\n"
        "1,,bob,2024-01-01T11:00:00Z,6\n"  # the same row again
        "1,2,ann,2024-01-01T12:00:00Z,7\n"
        "1,2,ann,2024-01-01T13:00:00Z,8\n"  # the same key: the newer one stays
    )
    events = events_of(spark, config_of(tmp_path, sources={"visits": visits(table, key=["id", "line"])})).collect()

    assert sorted(event["amount"] for event in events) == [5, 6, 6, 8]
    assert len({event["event_id"] for event in events}) == 4
    assert "visits:ann/1/2" in {event["event_id"] for event in events}


def test_f92_columns_may_have_any_name_and_are_never_sql(spark: SparkSession, tmp_path: Path) -> None:
    names = ["id'; drop table events; --", "who`s", "a.b", "select 1"]
    header = ",".join(names)
    (tmp_path / "odd.csv").write_text(f"{header}\n1,ann,2024-01-01T10:00:00Z,2.5\n1,ann,2024-01-01T10:00:00Z,2.5\n")
    (tmp_path / "goods.csv").write_text("k`e'y,(select 1)\n1,apple\n")
    source = visits(
        tmp_path / "odd.csv",
        key=[names[0]],
        entity=names[1],
        time={"column": names[2]},
        attributes={
            "amount": {"kind": "numerical", "column": names[3]},
            "good": {"kind": "categorical", "column": "x`; --"},
        },
        lookups={
            "goods": {
                "format": "csv",
                "path": str(tmp_path / "goods.csv"),
                "on": {names[0]: "k`e'y"},
                "columns": {"x`; --": "(select 1)"},
            }
        },
    )
    config = config_of(tmp_path, LENIENT, sources={"visits": source})
    (judged,) = judged_tables(spark, config).values()
    rows = judged.rows.select("customer_id", "amount", "good", "ending").orderBy("ending").collect()
    assert [tuple(row) for row in rows] == [("ann", 2.5, "apple", None), ("ann", 2.5, "apple", "duplicate")]


def test_f92_a_catalog_table_is_a_name_and_no_statement(spark: SparkSession, tmp_path: Path) -> None:
    spark.sql("create table kept_f92 (customer string) using parquet")
    try:
        for path in ("kept_f92; drop table kept_f92", "(select * from kept_f92)", "kept_f92 where 1=1"):
            complaint(spark, tmp_path, {"visits": visits(tmp_path, path=path, format="table")})
        assert spark.catalog.tableExists("kept_f92")
    finally:
        spark.sql("drop table kept_f92")
