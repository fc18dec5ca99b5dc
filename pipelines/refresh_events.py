"""Step 1 of a refresh: what arrived in the raw tables -> changes of events, profiles and rejected."""

from collections.abc import Mapping
from datetime import datetime
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark import __version__
from caspr_spark.config import Config
from caspr_spark.disk import Keep, kept_on_disk, written_aside
from caspr_spark.errors import CasprError
from caspr_spark.events.activities import activities
from caspr_spark.events.arrivals import (
    Arrivals,
    Position,
    arrivals,
    current_position,
    customers_of,
    taken_position,
    write_position,
)
from caspr_spark.events.increment import changes_of, increment, rows_to_read_again
from caspr_spark.events.raw import RawTable
from caspr_spark.events.rows import DUPLICATE
from caspr_spark.events.schema_changes import schema_warnings
from caspr_spark.events.sources import JudgedTable, judged_tables
from caspr_spark.events.states import customer_states, grown_states
from caspr_spark.events.timeline import profile_rows, timeline
from caspr_spark.session import local_frame
from caspr_spark.tables import change_table, column_types, empty_table, last_commit_notes, read_table
from pipelines.arrivals_gate import interval_hours, judged_arrivals
from pipelines.build_events import made_tables, rejected_of
from pipelines.contracts import event_contract, profile_contract, state_contract
from pipelines.customer_states import next_state_number, states_in_step, states_of, write_states
from pipelines.events_account import (
    TAKEN,
    Endings,
    counted_endings,
    notes_of,
    rows_read,
    write_event_metrics,
)
from pipelines.events_gate import take_arrivals, take_events, take_rows
from pipelines.gate_run import GateRun
from pipelines.summary import Summary
from schemas.contract import Contract
from schemas.events import REJECTED


class Change(NamedTuple):
    """Rows that go out of a table, and rows that come in."""

    removed: DataFrame
    added: DataFrame


class Changes(NamedTuple):
    """What a refresh changes. `states` are those of the customers concerned, or of all."""

    events: Change
    profiles: Change
    rejected: Change
    states: DataFrame
    states_of_all: bool


class Differences(NamedTuple):
    """What rows that were read again change."""

    events: Change
    profiles: Change
    rejected: Change


def refresh_events(spark: SparkSession, config: Config, as_of: datetime, *, compare_all: bool = False) -> Summary:
    """Bring `events`, `profiles` and `rejected` to what a build from all raw rows would give, from what arrived.

    New activities are laid on what `customer_states` holds of their customers. Where that does not tell the effect (an
    activity was there before, a row was deleted), the customer's rows of that raw table are read again and compared.
    Where the raw tables do not tell what arrived (a file was changed, a lookup is another, the declaration changed), or
    with `compare_all`, every customer is compared. Only rows that differ are written.

    Raises:
        CasprError: there are no events yet.
        ConfigError: a declared table is not there.
        SchemaError: as for `build_events`, or a column's type was narrowed.
        GateError: a check declared as `stop` failed on what arrived.
        UnsafeError: a source was replaced, or its changes are no longer kept.
    """
    last = last_commit_notes(spark, event_contract(config), config.root)
    taken = taken_position(config.root, last)
    if taken is None:
        raise CasprError(f"{config.root}: there are no events to refresh; run full-build first")
    now = current_position(spark, config, version=__version__, taken=taken)
    gate = GateRun(config, as_of, "events")
    if now.fingerprint is not None and last["made_from"] == now.fingerprint:
        take_arrivals(gate, judged_arrivals(spark, config, as_of, {}, None, interval=None))
        return Summary("events", 0, 0, ("nothing arrived", *gate.notes), changed=False)

    warnings = schema_warnings(config, taken, now)
    found: dict[str, Arrivals] | str = "asked to compare all customers"
    if not compare_all:
        found = arrivals(spark, config, taken, now)
    with kept_on_disk() as keep, written_aside(config.root) as write_aside:
        interval: float | None = 0
        if isinstance(found, str):
            batch = judged_tables(spark, config, schemas=now.schemas)
        else:
            new_rows = {name: arrived.added for name, arrived in found.items()}
            batch = judged_tables(spark, config, schemas=now.schemas, arrived=new_rows)
            interval = interval_hours(spark, config.root, as_of)
        for table in batch.values():
            keep(table.rows)
        endings = counted_endings(batch)
        read, notes = rows_read(endings), []
        take_rows(gate, batch)
        take_arrivals(gate, judged_arrivals(spark, config, as_of, batch, read, interval=interval))
        if isinstance(found, str):
            changes = _all_compared(spark, config, batch, keep)
            declared = config.events.gate
            notes.append(f"every customer was compared: {found}")
        else:
            changes = _incremented(spark, config, now, batch, found, keep, write_aside)
            # what is said of the whole table does not hold for some rows
            declared = {n: e for n, e in config.events.gate.items() if not e.expectation.startswith("ExpectTable")}
            _count_repeats(endings, {n for n, arrived in found.items() if arrived.gone is None}, changes.rejected)
        num_removed, num_added = changes.events.removed.count(), changes.events.added.count()
        if num_added:
            take_events(gate, changes.events.added, declared)
        num_cut = write_event_metrics(spark, config, as_of, endings, changes.events.added, interval=interval)

        name = now.fingerprint or ""
        for contract, change in ((REJECTED, changes.rejected), (profile_contract(config), changes.profiles)):
            change_table(spark, contract, config.root, removed=change.removed, added=change.added, made_from=name)
        numbers = {
            "rows_read": last["numbers"]["rows_read"] + sum(read.values()),
            "events": last["numbers"]["events"] + num_added - num_removed,
            "position": write_position(now, config.root),
            "states": write_states(spark, config, changes.states, changed=not changes.states_of_all),
        }
        change_table(
            spark,
            event_contract(config),
            config.root,
            removed=changes.events.removed,
            added=changes.events.added,
            made_from=name,
            numbers=numbers,
            near="event_time",
        )
    notes = notes_of(batch, endings, num_cut) + gate.notes + warnings + notes
    notes += [f"{num_added:,} events added or changed, {num_removed:,} removed or changed"]
    return Summary("events", sum(read.values()), num_added, tuple(notes))


def _all_compared(spark: SparkSession, config: Config, tables: dict[str, JudgedTable], keep: Keep) -> Changes:
    """All raw rows against the tables."""
    made = made_tables(spark, config, tables, keep)
    return Changes(
        events=_differences(spark, event_contract(config), config.root, made.events, keep),
        profiles=_differences(spark, profile_contract(config), config.root, keep(made.profiles), keep),
        rejected=_differences(spark, REJECTED, config.root, keep(made.rejected), keep),
        states=states_of(spark, config, made.events),
        states_of_all=True,
    )


def _incremented(
    spark: SparkSession,
    config: Config,
    now: Position,
    batch: dict[str, JudgedTable],
    found: Mapping[str, Arrivals],
    keep: Keep,
    write_aside: Keep,
) -> Changes:
    """What arrived, laid on the customers' states; where these do not suffice, raw rows read again."""
    events = event_contract(config)
    customers = write_aside(customers_of(found, config))
    states, all_states = states_in_step(spark, config, customers=customers), None
    if states is None:
        all_states = write_aside(states_of(spark, config, read_table(spark, events, config.root)))
        states = all_states.join(F.broadcast(customers), on="customer_id", how="left_semi")
    states = keep(states)
    arrived = _arrived_rows(spark, config, batch, write_aside)
    again = write_aside(_to_read_again(spark, config, found, arrived, states).coalesce(1))
    compared = _read_again(spark, config, now, again, keep)

    new_events, new_profiles, new_rejected = (
        rows.join(F.broadcast(again), on=_same_rows(rows, again), how="left_anti") for rows in arrived
    )
    theirs = states.join(F.broadcast(new_events.select("customer_id").distinct()), on="customer_id", how="left_semi")
    sessions = {name: source.sessions for name, source in config.sources.items()}
    incremented = write_aside(increment(new_events, theirs, events, sessions=sessions))
    before, after = changes_of(incremented, events)
    changed = Change(
        write_aside(compared.events.removed.unionByName(before)), write_aside(compared.events.added.unionByName(after))
    )

    present = read_table(spark, REJECTED, config.root)  # a refresh that was killed may have written them already
    present = present.join(F.broadcast(new_rejected.select("file").distinct()), on="file", how="left_semi")
    present = present.join(F.broadcast(again), on=_same_rows(present, again), how="left_anti")
    present = keep(present.select(*REJECTED.column_names))
    rejected = Change(
        keep(compared.rejected.removed.unionByName(present.subtract(new_rejected))),
        keep(compared.rejected.added.unionByName(new_rejected.subtract(present))),
    )

    new_states = _new_states(spark, config, again, changed, states, incremented)
    if all_states is not None:
        new_states = write_aside(new_states)
        others = all_states.join(new_states.select("customer_id"), on="customer_id", how="left_anti")
        new_states = others.unionByName(new_states)
    return Changes(
        events=changed,
        profiles=Change(compared.profiles.removed, keep(compared.profiles.added.unionByName(new_profiles))),
        rejected=rejected,
        states=new_states,
        states_of_all=all_states is not None,
    )


class Rows(NamedTuple):
    """EVENTS without sessions, PROFILES and REJECTED of what arrived."""

    events: DataFrame
    profiles: DataFrame
    rejected: DataFrame


def _arrived_rows(spark: SparkSession, config: Config, batch: dict[str, JudgedTable], write_aside: Keep) -> Rows:
    none = local_frame(spark, [], "customer_id string")
    taken = {name: table.rows.where("ending is null") for name, table in batch.items()}
    events = [
        activities(taken[name], source=name, key=source.key, group=source.group, attributes=source.attributes)
        for name, source in config.sources.items()
        if name in taken
    ]
    profiles = [
        profile_rows(taken[name], profile=name, attributes=profile.attributes)
        for name, profile in config.profiles.items()
        if name in taken
    ]
    return Rows(
        events=write_aside(timeline(events or [none], event_contract(config))),
        profiles=write_aside(timeline(profiles or [none], profile_contract(config))),
        rejected=write_aside(rejected_of(spark, config, batch)),
    )


def _to_read_again(
    spark: SparkSession, config: Config, found: Mapping[str, Arrivals], arrived: Rows, states: DataFrame
) -> DataFrame:
    """source, customer_id: whose rows of which raw table must be read again; null stands for rows that name nobody."""
    sessions = {name: source.sessions for name, source in config.sources.items()}
    again = [rows_to_read_again(arrived.events, states, sessions=sessions)]
    # A line that repeats one of another group takes it out there.
    regrouped = [
        name
        for name, source in config.sources.items()
        if source.group is not None and source.key and not set(source.group.by) <= set(source.key)
    ]
    is_apart = F.col("source").isin(regrouped) | F.col("customer_id").isNull()
    again.append(arrived.events.where(is_apart).select("source", "customer_id"))
    # Equal rows of one place are one row of REJECTED, which counts them; a new file is a place of its own.
    in_old_places = [name for name in found if config.activity_tables[name].format == "delta"]
    again.append(arrived.rejected.where(F.col("source").isin(in_old_places)).select("source", "customer_id"))
    contract = profile_contract(config)
    known = read_table(spark, contract, config.root).select(*contract.key)
    was_there = known.join(F.broadcast(arrived.profiles.select(*contract.key)), on=list(contract.key), how="left_semi")
    again.append(was_there.select(F.col("profile").alias("source"), "customer_id"))
    for name, arrival in found.items():
        if arrival.gone is not None:
            theirs = customers_of({name: Arrivals(added=RawTable(arrival.gone))}, config)
            again.append(theirs.select(F.lit(name).alias("source"), "customer_id"))
    return reduce(DataFrame.unionAll, again).distinct()


def _read_again(spark: SparkSession, config: Config, now: Position, again: DataFrame, keep: Keep) -> Differences:
    """The rows of these customers in these raw tables against what our tables have of them."""
    contracts = (event_contract(config), profile_contract(config), REJECTED)
    names = {row["source"] for row in again.select("source").distinct().collect()}
    if not names:
        nothing = [Change(empty_table(spark, contract), empty_table(spark, contract)) for contract in contracts]
        return Differences(*nothing)
    tables = judged_tables(spark, config, schemas=now.schemas, only=names, customers=again)
    for table in tables.values():
        keep(table.rows)
    made = made_tables(spark, config, tables, keep)
    return Differences(
        *[
            _differences(spark, contract, config.root, rows, keep, of=again)
            for contract, rows in zip(contracts, (made.events, keep(made.profiles), keep(made.rejected)), strict=True)
        ]
    )


def _new_states(
    spark: SparkSession, config: Config, again: DataFrame, changed: Change, states: DataFrame, incremented: DataFrame
) -> DataFrame:
    """The states of all customers whose events change."""
    contract, number, max_events = event_contract(config), next_state_number(spark, config), config.sequences.max_events
    is_source = F.col("source").isin(list(config.sources))
    read_again = F.broadcast(again.where(is_source).select("customer_id").na.drop().distinct())
    plain = incremented.join(read_again, on="customer_id", how="left_anti").drop("known_session_id")
    grown = grown_states(states, plain, max_events=max_events, number=number)
    if again.where(is_source).isEmpty():
        return grown
    present = read_table(spark, contract, config.root).join(read_again, on="customer_id", how="left_semi")
    kept = present.join(changed.removed.select("event_id"), on="event_id", how="left_anti").select(
        *contract.column_names
    )
    added = changed.added.join(read_again, on="customer_id", how="left_semi").select(*contract.column_names)
    made = customer_states(kept.unionByName(added), max_events=max_events, sources=list(config.sources), number=number)
    fields = column_types(state_contract(config))
    empty = read_again.join(made, on="customer_id", how="left_anti").select(
        "customer_id",
        F.lit(number).cast("bigint").alias("state_number"),
        F.lit(0).cast("bigint").alias("num_events"),
        *[F.array().cast(fields[name]).alias(name) for name in ("event_keys", "newest")],
    )
    return grown.unionByName(made).unionByName(empty)


def _same_rows(rows: DataFrame, again: DataFrame) -> Column:
    """Of the same raw table and customer."""
    name = "profile" if "profile" in rows.columns else "source"
    return (rows[name] == again["source"]) & rows["customer_id"].eqNullSafe(again["customer_id"])


def _differences(
    spark: SparkSession, contract: Contract, root: str, rows: DataFrame, keep: Keep, *, of: DataFrame | None = None
) -> Change:
    """What must change for the table to hold `rows`, of these raw tables and customers (source, customer_id; all)."""
    present = read_table(spark, contract, root)
    if of is not None:
        present = present.join(F.broadcast(of), on=_same_rows(present, of), how="left_semi")
    present = keep(present)
    rows = rows.select(*contract.column_names)
    return Change(keep(present.subtract(rows)), keep(rows.subtract(present)))


def _count_repeats(endings: Endings, sources: set[str], rejected: Change) -> None:
    """Count arrived rows of these sources that repeat earlier ones as duplicates too, by what changes in REJECTED."""
    out = rejected.removed.withColumn("num_rows", -F.col("num_rows"))
    signed = out.unionByName(rejected.added).where(F.col("reason") == DUPLICATE)
    for row in signed.groupBy("source").agg(F.sum("num_rows").alias("num_rows")).collect():
        if row["source"] in sources:
            ends = endings[row["source"]]
            repeats = row["num_rows"] - ends.get(DUPLICATE, 0)
            ends[DUPLICATE] = row["num_rows"]
            ends[TAKEN] = ends.get(TAKEN, 0) - repeats
