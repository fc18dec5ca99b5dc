"""The gates of the events stage: raw rows, what arrived of each table, and the events, in this order."""

from collections.abc import Mapping

from pyspark.sql import DataFrame

from caspr_spark.config import Expectation
from caspr_spark.events.gate import row_verdicts
from caspr_spark.events.sources import JudgedTable
from caspr_spark.gate import Judged, declared_verdicts
from pipelines.gate_run import GateRun

_MEND = "mend the raw tables, or change the check's max_failed_share or on_fail in the configuration"
_WAIT = (
    "nothing was taken: run again when the rest has arrived; if all is right, change the limits of events.volume, "
    "events.freshness or events.ahead, or on_fail, in the configuration"
)


def take_rows(gate: GateRun, tables: Mapping[str, JudgedTable]) -> None:
    """Judge the raw rows. Raises GateError where a check declared as `stop` failed."""
    gate.take(row_verdicts({name: (table.rows, table.checks) for name, table in tables.items()}), so=_MEND)


def take_arrivals(gate: GateRun, judged: Judged) -> None:
    """Take the verdicts of `judged_arrivals`. Raises GateError where one declared as `stop` failed."""
    gate.take(judged, so=_WAIT)


def take_events(gate: GateRun, events: DataFrame, declared: Mapping[str, Expectation]) -> None:
    """Judge the events. Raises GateError where an expectation declared as `stop` failed."""
    gate.take(declared_verdicts(events, gate=declared, section="events", noun="events"), so=_MEND)
