"""Step 1: raw tables -> events, profiles and rejected."""

from contextlib import ExitStack
from datetime import datetime

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark import __version__
from caspr_spark.config import Config
from caspr_spark.errors import GateError
from caspr_spark.events.activities import activities, with_sessions
from caspr_spark.events.gate import Verdict, event_verdicts, row_verdicts
from caspr_spark.events.rows import DUPLICATE, rejected_rows
from caspr_spark.events.sources import JudgedTable, inputs_fingerprint, judged_tables
from caspr_spark.events.timeline import profile_rows, timeline
from caspr_spark.metrics import write_metrics
from caspr_spark.tables import last_commit_notes, write_table
from pipelines.summary import Summary
from schemas.contract import Contract
from schemas.events import REJECTED, events_contract
from schemas.profiles import profiles_contract

_TAKEN = "taken"


def build_events(spark: SparkSession, config: Config, as_of: datetime) -> Summary:
    """Write `events`, `profiles` and `rejected`; nothing is written if a `stop` check fails.

    Raises:
        ConfigError: a declared table or column is not there (all of them are named at once).
        GateError: a check declared as `stop` failed.
    """
    made_from = inputs_fingerprint(spark, config, version=__version__)
    last = last_commit_notes(spark, event_contract(config), config.root)
    if made_from is not None and last.get("made_from") == made_from:
        numbers = last["numbers"]
        return Summary("events", numbers["rows_read"], numbers["events"], changed=False)

    tables = judged_tables(spark, config)
    with ExitStack() as kept:  # on disk while it is needed, also when the gate stops the run

        def keep(frame: DataFrame) -> DataFrame:
            kept.callback(frame.unpersist)
            return frame.persist(StorageLevel.DISK_ONLY)

        endings = {name: _endings(keep(table.rows)) for name, table in tables.items()}
        verdicts = [
            v for table in tables.values() for v in row_verdicts(table.rows, source=table.name, checks=table.checks)
        ]
        _stop_if_failed(verdicts)
        events = keep(_events(config, tables))
        verdicts += event_verdicts(events, gate=config.events.gate)
        _stop_if_failed(verdicts)

        num_cut = int((events.agg(F.sum("num_values_cut")).first() or [0])[0] or 0)
        metrics = {**_row_metrics(endings), **_event_metrics(events), ("set_values_cut", ""): num_cut}
        write_metrics(spark, metrics, config.root, as_of=as_of, run_id="", stage="events")
        made = made_from or ""
        rejected = timeline([rejected_rows(table.rows, source=name) for name, table in tables.items()], REJECTED)
        write_table(rejected, REJECTED, config.root, made_from=made)
        write_table(_profiles(spark, config, tables), profile_contract(config), config.root, made_from=made)
        numbers = {"rows_read": sum(sum(ends.values()) for ends in endings.values()), "events": events.count()}
        write_table(events, event_contract(config), config.root, made_from=made, numbers=numbers)  # last: it says done

    notes = [_account(tables[name], ends) for name, ends in endings.items()]
    notes += [f"{num_cut:,} values of sets were beyond their max_values and left out"] if num_cut else []
    notes += [f"warning: {verdict.detail}" for verdict in verdicts if not verdict.passed]
    return Summary("events", numbers["rows_read"], numbers["events"], tuple(notes))


def event_contract(config: Config) -> Contract:
    """The contract of `events` for the declared attributes."""
    return events_contract({name: attribute.kind for name, attribute in config.event_attributes.items()})


def profile_contract(config: Config) -> Contract:
    """The contract of `profiles` for the declared attributes."""
    return profiles_contract({name: attribute.kind for name, attribute in config.profile_attributes.items()})


def _events(config: Config, tables: dict[str, JudgedTable]) -> DataFrame:
    parts = []
    for name, source in config.sources.items():
        taken = tables[name].rows.where("ending is null")
        found = activities(taken, source=name, key=source.key, group=source.group, attributes=source.attributes)
        parts.append(with_sessions(found, sessions=source.sessions))
    return timeline(parts, event_contract(config))


def _profiles(spark: SparkSession, config: Config, tables: dict[str, JudgedTable]) -> DataFrame:
    parts = [
        profile_rows(tables[name].rows.where("ending is null"), profile=name, attributes=profile.attributes)
        for name, profile in config.profiles.items()
    ]
    none = spark.createDataFrame([], "customer_id string")
    return timeline(parts or [none], profile_contract(config))


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


def _stop_if_failed(verdicts: list[Verdict]) -> None:
    failed = [verdict for verdict in verdicts if not verdict.passed and verdict.on_fail == "stop"]
    if failed:
        raise GateError(
            "the gate stopped the run; the tables are as they were:\n"
            + "\n".join(f"  - {verdict.detail}" for verdict in failed)
            + "\nmend the raw tables, or change the check's max_failed_share or on_fail in the configuration"
        )
