"""Step 1: raw tables -> events, profiles and rejected."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark import __version__
from caspr_spark.config import Config, Expectation
from caspr_spark.disk import Keep, kept_on_disk
from caspr_spark.errors import CasprError, GateError
from caspr_spark.events.activities import activities, with_sessions
from caspr_spark.events.arrivals import (
    Arrivals,
    arrivals,
    current_position,
    customers_of,
    read_position,
    write_position,
)
from caspr_spark.events.gate import Verdict, event_verdicts, row_verdicts
from caspr_spark.events.rows import DUPLICATE, rejected_rows
from caspr_spark.events.sources import JudgedTable, judged_tables
from caspr_spark.events.timeline import profile_rows, timeline
from caspr_spark.metrics import write_metrics
from caspr_spark.tables import change_table, last_commit_notes, read_table, write_table
from pipelines.summary import Summary
from schemas.contract import Contract
from schemas.events import REJECTED, events_contract
from schemas.profiles import profiles_contract

_TAKEN = "taken"


def build_events(spark: SparkSession, config: Config, as_of: datetime) -> Summary:
    """Write `events`, `profiles` and `rejected` from all raw rows; nothing is written if a `stop` check fails.

    Raises:
        ConfigError: a declared table or column is not there (all of them are named at once).
        GateError: a check declared as `stop` failed.
    """
    now = current_position(spark, config, version=__version__)
    made_from = now.fingerprint
    last = last_commit_notes(spark, event_contract(config), config.root)
    if made_from is not None and last.get("made_from") == made_from:
        numbers = last["numbers"]
        return Summary("events", numbers["rows_read"], numbers["events"], changed=False)

    tables = judged_tables(spark, config)
    with kept_on_disk() as keep:
        endings = {name: _endings(keep(table.rows)) for name, table in tables.items()}
        verdicts = _row_verdicts(tables)
        made = made_tables(spark, config, tables, keep)
        verdicts += _event_verdicts(made.events, config.events.gate)

        num_cut = _write_metrics(spark, config, as_of, endings, made.events)
        name = made_from or ""
        write_table(made.rejected, REJECTED, config.root, made_from=name)
        write_table(made.profiles, profile_contract(config), config.root, made_from=name)
        numbers = {
            "rows_read": _num_rows(endings),
            "events": made.events.count(),
            "position": write_position(now, config.root),
        }
        in_time = made.events.repartitionByRange("event_time")  # a refresh then passes over files of other months
        write_table(in_time, event_contract(config), config.root, made_from=name, numbers=numbers)  # last: it says done
    return Summary("events", numbers["rows_read"], numbers["events"], tuple(_notes(tables, endings, num_cut, verdicts)))


def refresh_events(spark: SparkSession, config: Config, as_of: datetime, *, compare_all: bool = False) -> Summary:
    """Bring `events`, `profiles` and `rejected` to what a build from all raw rows would give, from what arrived.

    The rows of the customers that arrived rows name are read again and compared with the tables; only rows that
    differ are written. Where the raw tables do not tell what arrived (a file was changed, a lookup is another, the
    declaration changed), or with `compare_all`, every customer is compared.

    Raises:
        CasprError: there are no events yet.
        ConfigError: a declared table or column is not there.
        GateError: a check declared as `stop` failed on what arrived.
        UnsafeError: a source was replaced, or its changes are no longer kept.
    """
    last = last_commit_notes(spark, event_contract(config), config.root)
    if "position" not in last.get("numbers", {}):
        raise CasprError(f"{config.root}: there are no events to refresh; run full-build first")
    now = current_position(spark, config, version=__version__)
    if now.fingerprint is not None and last["made_from"] == now.fingerprint:
        return Summary("events", 0, 0, ("nothing arrived",), changed=False)

    reason = "asked to compare all customers"
    arrived: dict[str, Arrivals] | None = None
    if not compare_all:
        found = arrivals(spark, config, read_position(config.root, last["numbers"]["position"]), now)
        arrived, reason = (None, found) if isinstance(found, str) else (found, "")
    with kept_on_disk() as keep:
        customers = None
        if arrived is None:
            batch = tables = judged_tables(spark, config)
        else:
            batch = judged_tables(spark, config, arrived={name: found.added for name, found in arrived.items()})
            customers = keep(customers_of(arrived, config))
            tables = judged_tables(spark, config, customers=customers)
        endings = {name: _endings(keep(table.rows)) for name, table in batch.items()}
        verdicts = _row_verdicts(batch)
        if batch is not tables:
            for table in tables.values():
                keep(table.rows)
        made = made_tables(spark, config, tables, keep)
        if made.events.isEmpty():
            gate: dict[str, Expectation] = {}
        elif arrived is None:
            gate = config.events.gate
        else:  # what is said of the whole table does not hold for some customers' rows
            gate = {n: e for n, e in config.events.gate.items() if not e.expectation.startswith("ExpectTable")}
        verdicts += _event_verdicts(made.events, gate)

        name = now.fingerprint or ""
        removed, added = _differences(spark, REJECTED, config.root, keep(made.rejected), customers, keep)
        if arrived is not None:
            _count_repeats(endings, {n for n, found in arrived.items() if found.gone is None}, removed, added)
        num_cut = _write_metrics(spark, config, as_of, endings, made.events)
        change_table(spark, REJECTED, config.root, removed=removed, added=added, made_from=name)
        contract = profile_contract(config)
        removed, added = _differences(spark, contract, config.root, keep(made.profiles), customers, keep)
        change_table(spark, contract, config.root, removed=removed, added=added, made_from=name)
        contract = event_contract(config)
        removed, added = _differences(spark, contract, config.root, made.events, customers, keep)
        num_removed, num_added = removed.count(), added.count()
        numbers = {
            "rows_read": last["numbers"]["rows_read"] + _num_rows(endings),
            "events": last["numbers"]["events"] + num_added - num_removed,
            "position": write_position(now, config.root),
        }
        change_table(
            spark,
            contract,
            config.root,
            removed=removed,
            added=added,
            made_from=name,
            numbers=numbers,
            near="event_time",
        )
    notes = _notes(batch, endings, num_cut, verdicts)
    notes += [f"every customer was compared: {reason}"] if reason else []
    notes += [f"{num_added:,} events added or changed, {num_removed:,} removed or changed"]
    return Summary("events", _num_rows(endings), num_added, tuple(notes))


def event_contract(config: Config) -> Contract:
    """The contract of `events` for the declared attributes."""
    return events_contract({name: attribute.kind for name, attribute in config.event_attributes.items()})


def profile_contract(config: Config) -> Contract:
    """The contract of `profiles` for the declared attributes."""
    return profiles_contract({name: attribute.kind for name, attribute in config.profile_attributes.items()})


class MadeTables(NamedTuple):
    """EVENTS, PROFILES and REJECTED of the same rows."""

    events: DataFrame
    profiles: DataFrame
    rejected: DataFrame


def made_tables(spark: SparkSession, config: Config, tables: dict[str, JudgedTable], keep: Keep) -> MadeTables:
    """What the judged rows give, one table each; events are kept on disk."""
    parts = []
    for name, source in config.sources.items():
        taken = tables[name].rows.where("ending is null")
        found = activities(taken, source=name, key=source.key, group=source.group, attributes=source.attributes)
        parts.append(with_sessions(found, sessions=source.sessions))
    profiles = [
        profile_rows(tables[name].rows.where("ending is null"), profile=name, attributes=profile.attributes)
        for name, profile in config.profiles.items()
    ]
    none = spark.createDataFrame([], "customer_id string")
    return MadeTables(
        events=keep(timeline(parts, event_contract(config))),
        profiles=timeline(profiles or [none], profile_contract(config)),
        rejected=timeline([rejected_rows(table.rows, source=name) for name, table in tables.items()], REJECTED),
    )


def _differences(
    spark: SparkSession, contract: Contract, root: str, rows: DataFrame, customers: DataFrame | None, keep: Keep
) -> tuple[DataFrame, DataFrame]:
    """What must go out of the table and what must come in, so that it holds `rows` for these customers (None: all)."""
    present = read_table(spark, contract, root)
    if customers is not None:
        is_theirs = present["customer_id"].eqNullSafe(customers["customer_id"])
        present = present.join(F.broadcast(customers), on=is_theirs, how="left_semi")
    present = keep(present)
    rows = rows.select(*contract.column_names)
    return keep(present.subtract(rows)), keep(rows.subtract(present))


def _count_repeats(endings: dict[str, dict[str, int]], sources: set[str], removed: DataFrame, added: DataFrame) -> None:
    """Count arrived rows of these sources that repeat earlier ones as duplicates too, by what changes in REJECTED."""
    signed = removed.withColumn("num_rows", -F.col("num_rows")).unionByName(added).where(F.col("reason") == DUPLICATE)
    for row in signed.groupBy("source").agg(F.sum("num_rows").alias("num_rows")).collect():
        if row["source"] in sources:
            ends = endings[row["source"]]
            repeats = row["num_rows"] - ends.get(DUPLICATE, 0)
            ends[DUPLICATE] = row["num_rows"]
            ends[_TAKEN] = ends.get(_TAKEN, 0) - repeats


def _endings(judged: DataFrame) -> dict[str, int]:
    """Ending -> number of raw rows, `taken` included."""
    counted = judged.groupBy(F.coalesce("ending", F.lit(_TAKEN)).alias("ending")).count()
    return {row["ending"]: row["count"] for row in counted.orderBy("ending").collect()}


def _account(table: JudgedTable, endings: dict[str, int]) -> str:
    """`purchases: 10 rows read = 7 taken + 1 duplicate + 2 rejected (time_present 2)`."""
    reasons = {reason: count for reason, count in endings.items() if reason not in (_TAKEN, DUPLICATE)}
    text = (
        f"{table.name}: {sum(endings.values()):,} rows read = {endings.get(_TAKEN, 0):,} taken"
        f" + {endings.get(DUPLICATE, 0):,} duplicate + {sum(reasons.values()):,} rejected"
    )
    text += f" ({', '.join(f'{reason} {count:,}' for reason, count in reasons.items())})" if reasons else ""
    return text + (f"; {table.rows_outside_filter:,} outside the filter" if table.rows_outside_filter else "")


def _row_metrics(endings: dict[str, dict[str, int]]) -> dict[tuple[str, str], float]:
    metrics: dict[tuple[str, str], float] = {}
    for name, ends in endings.items():
        reasons = {reason: count for reason, count in ends.items() if reason not in (_TAKEN, DUPLICATE)}
        metrics["rows_read", name] = sum(ends.values())
        metrics["rows_taken", name] = ends.get(_TAKEN, 0)
        metrics["rows_duplicate", name] = ends.get(DUPLICATE, 0)
        metrics["rows_rejected", name] = sum(reasons.values())
        metrics.update({("rows_rejected_by_reason", f"{name}: {reason}"): n for reason, n in reasons.items()})
    return metrics


def _event_metrics(events: DataFrame) -> dict[tuple[str, str], float]:
    counted = events.groupBy("source").agg(F.count(F.lit(1)).alias("events")).orderBy("source")
    return {("events", row["source"]): row["events"] for row in counted.collect()}


def _write_metrics(
    spark: SparkSession, config: Config, as_of: datetime, endings: dict[str, dict[str, int]], events: DataFrame
) -> int:
    """Write the stage's numbers; returns how many values of sets were cut."""
    num_cut = int((events.agg(F.sum("num_values_cut")).first() or [0])[0] or 0)
    metrics = {**_row_metrics(endings), **_event_metrics(events), ("set_values_cut", ""): num_cut}
    write_metrics(spark, metrics, config.root, as_of=as_of, run_id="", stage="events")
    return num_cut


def _num_rows(endings: dict[str, dict[str, int]]) -> int:
    return sum(sum(ends.values()) for ends in endings.values())


def _notes(
    tables: dict[str, JudgedTable], endings: dict[str, dict[str, int]], num_cut: int, verdicts: list[Verdict]
) -> list[str]:
    notes = [_account(tables[name], ends) for name, ends in endings.items()]
    notes += [f"{num_cut:,} values of sets were beyond their max_values and left out"] if num_cut else []
    return notes + [f"warning: {verdict.detail}" for verdict in verdicts if not verdict.passed]


def _row_verdicts(tables: dict[str, JudgedTable]) -> list[Verdict]:
    verdicts = [
        v for table in tables.values() for v in row_verdicts(table.rows, source=table.name, checks=table.checks)
    ]
    _stop_if_failed(verdicts)
    return verdicts


def _event_verdicts(events: DataFrame, gate: Mapping[str, Expectation]) -> list[Verdict]:
    verdicts = event_verdicts(events, gate=gate) if gate else []
    _stop_if_failed(verdicts)
    return verdicts


def _stop_if_failed(verdicts: list[Verdict]) -> None:
    failed = [verdict for verdict in verdicts if not verdict.passed and verdict.on_fail == "stop"]
    if failed:
        raise GateError(
            "the gate stopped the run; the tables are as they were:\n"
            + "\n".join(f"  - {verdict.detail}" for verdict in failed)
            + "\nmend the raw tables, or change the check's max_failed_share or on_fail in the configuration"
        )
