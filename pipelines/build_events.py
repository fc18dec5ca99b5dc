"""Step 1: raw tables -> events, profiles and rejected."""

from datetime import datetime
from typing import NamedTuple

from pyspark.sql import DataFrame, SparkSession

from caspr_spark import __version__
from caspr_spark.config import Config
from caspr_spark.disk import Keep, kept_on_disk
from caspr_spark.events.activities import activities, with_sessions
from caspr_spark.events.arrivals import current_position, taken_position, write_position
from caspr_spark.events.rows import rejected_rows
from caspr_spark.events.schema_changes import schema_warnings
from caspr_spark.events.sources import JudgedTable, judged_tables
from caspr_spark.events.timeline import profile_rows, timeline
from caspr_spark.session import local_frame
from caspr_spark.tables import last_commit_notes, write_table
from caspr_spark.tombstones import tombstones
from pipelines.arrivals_gate import judged_arrivals
from pipelines.contracts import event_contract, profile_contract
from pipelines.customer_states import states_of, write_states
from pipelines.events_account import counted_endings, notes_of, rows_read, write_event_metrics
from pipelines.events_gate import take_arrivals, take_events, take_rows
from pipelines.gate_run import GateRun
from pipelines.summary import Summary
from schemas.events import REJECTED

_EVENTS_A_FILE = 250_000
"""A late event that parts a session has its file written anew, and files of some MB still read fast."""


def build_events(spark: SparkSession, config: Config, as_of: datetime) -> Summary:
    """Write `events`, `profiles` and `rejected` from all raw rows; nothing is written if a `stop` check fails.

    What later refreshes need to know of each customer goes to `customer_states`.

    Raises:
        ConfigError: a declared table is not there (all of them are named at once).
        SchemaError: a declared column is not there, files do not fit together, or a change that is to stop the run.
        GateError: a check declared as `stop` failed.
    """
    last = last_commit_notes(spark, event_contract(config), config.root)
    taken = taken_position(config.root, last)
    now = current_position(spark, config, version=__version__, taken=taken)
    made_from = now.fingerprint
    if made_from is not None and last.get("made_from") == made_from:
        numbers = last["numbers"]
        return Summary("events", numbers["rows_read"], numbers["events"], changed=False)

    warnings = schema_warnings(config, taken, now)
    tables = judged_tables(spark, config, schemas=now.schemas)
    with kept_on_disk() as keep:
        for table in tables.values():
            keep(table.rows)
        endings = counted_endings(tables)
        gate, read = GateRun(config, as_of, "events"), rows_read(endings)
        take_rows(gate, tables)
        take_arrivals(gate, judged_arrivals(spark, config, as_of, tables, read, interval=0))
        made = made_tables(spark, config, tables, keep)
        take_events(gate, made.events, config.events.gate)

        num_cut = write_event_metrics(spark, config, as_of, endings, made.events, interval=0)
        name = made_from or ""
        write_table(made.rejected, REJECTED, config.root, made_from=name)
        write_table(made.profiles, profile_contract(config), config.root, made_from=name)
        numbers = {
            "rows_read": sum(read.values()),
            "events": (num_events := made.events.count()),
            "position": write_position(now, config.root),
            "states": write_states(spark, config, states_of(spark, config, made.events)),
        }
        num_files = -(-num_events // _EVENTS_A_FILE) or 1
        in_time = made.events.repartitionByRange(num_files, "event_time")  # a refresh passes over files of other days
        write_table(in_time, event_contract(config), config.root, made_from=name, numbers=numbers)  # last: it says done
    notes = notes_of(tables, endings, num_cut) + gate.notes + warnings
    return Summary("events", numbers["rows_read"], numbers["events"], tuple(notes))


class MadeTables(NamedTuple):
    """EVENTS, PROFILES and REJECTED of the same rows."""

    events: DataFrame
    profiles: DataFrame
    rejected: DataFrame


def made_tables(spark: SparkSession, config: Config, tables: dict[str, JudgedTable], keep: Keep) -> MadeTables:
    """What the judged rows of some or all raw tables give, one table each; events are kept on disk."""
    parts = []
    for name, source in config.sources.items():
        if name not in tables:
            continue
        taken = tables[name].rows.where("ending is null")
        found = activities(taken, source=name, key=source.key, group=source.group, attributes=source.attributes)
        parts.append(with_sessions(found, sessions=source.sessions))
    profiles = [
        profile_rows(tables[name].rows.where("ending is null"), profile=name, attributes=profile.attributes)
        for name, profile in config.profiles.items()
        if name in tables
    ]
    none = local_frame(spark, [], "customer_id string")
    return MadeTables(
        events=keep(timeline(parts or [none], event_contract(config))),
        profiles=timeline(profiles or [none], profile_contract(config)),
        rejected=rejected_of(spark, config, tables),
    )


def rejected_of(spark: SparkSession, config: Config, tables: dict[str, JudgedTable]) -> DataFrame:
    """REJECTED of the judged rows; without rows of others, or of nobody, that name an erased customer anywhere."""
    rejected = timeline([rejected_rows(table.rows, source=name) for name, table in tables.items()], REJECTED)
    graves = tombstones(spark, config.root)
    if graves is None:
        return rejected
    return rejected.join(graves.naming(rejected, "content").select("content"), on="content", how="left_anti").select(
        *REJECTED.column_names
    )
