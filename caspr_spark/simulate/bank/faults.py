"""Switches: what can go wrong with the raw files, on top of the clean rows and for named batches alone.

A fault is written `NAME[.TABLE][=BATCHES[:STRENGTH]]`, for example `late`, `late=2-4`, `late=2-4,7:0.1`,
`quiet_day.calls=3`, `covid=10-`. Without TABLE it acts on the tables of its kind, without BATCHES on every batch.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial, reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from caspr_spark.errors import ConfigError
from caspr_spark.simulate.bank.draws import chance, integer
from caspr_spark.simulate.bank.tables import TABLES, RawTable

MOST_BATCHES_LATE = 3
RENAMED_PAGE, NEW_PAGE = "payments", "payments_new"
DROPPED_CATEGORY = "groceries"
ADDED_COLUMN = "app_version"
_WRITTEN = re.compile(r"(?P<name>\w+)(?:\.(?P<table>\w+))?(?:=(?P<batches>[\d,-]*)(?::(?P<strength>[\d.]+))?)?")


@dataclass(frozen=True)
class FaultKind:
    """`tables`: those that it can act on; `usual`: those that it acts on where none is named (empty: all of `tables`).

    `strength`: the usual one, its meaning is in the description; None where there is none.
    """

    description: str
    tables: tuple[str, ...]
    strength: float | None = None
    most: float = 1.0
    usual: tuple[str, ...] = ()


_ALL = tuple(TABLES)
_NUMBERS = tuple(name for name, table in TABLES.items() if table.number is not None)
KINDS = {
    "late": FaultKind("a share of the rows (0.05) arrives one to three batches later", _ALL, 0.05),
    "duplicated": FaultKind(
        "a share of the rows (0.05) is sent twice, half of them again in the next batch", _ALL, 0.05
    ),
    "out_of_order": FaultKind("the rows of a file stand in no order, not in that of time", _ALL),
    "corrupt": FaultKind(
        "a share of the rows (0.02) is damaged: half a JSON line, text for a number in CSV, NaN in Parquet",
        ("card_transactions", "account_transactions", "clicks"),
        0.02,
    ),
    "clock_skew": FaultKind("the app's clock is minutes (90) ahead", ("clicks",), 90, most=100_000),
    "page_renamed": FaultKind(f"the page '{RENAMED_PAGE}' is called '{NEW_PAGE}'", ("clicks",)),
    "category_dropped": FaultKind(f"card payments for '{DROPPED_CATEGORY}' are missing", ("card_transactions",)),
    "amounts_in_cents": FaultKind(
        "amounts are in cents instead of euros (x100)", ("card_transactions", "account_transactions", "takeovers")
    ),
    "column_added": FaultKind(f"the files have one more column, {ADDED_COLUMN}, the last", _ALL, usual=("clicks",)),
    "column_retyped": FaultKind(
        "a number is written as text with its unit ('12.5 units')", _NUMBERS, usual=("card_transactions",)
    ),
    "quiet_day": FaultKind("only a share of a table's rows (0: none) arrives", _ALL, 0.0, usual=("clicks",)),
    "covid": FaultKind(
        "everyone behaves as in a pandemic: pays online, visits and calls more; no travel, little cash", ()
    ),
}
FAULT_DESCRIPTIONS = {name: kind.description for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Fault:
    """One switch: the batches (first, last or None for open) that it acts on, its tables, and its strength."""

    name: str
    tables: tuple[str, ...]
    batches: tuple[tuple[int, int | None], ...]
    strength: float

    def is_active(self, batch: int) -> bool:
        return any(first <= batch and (last is None or batch <= last) for first, last in self.batches)

    def since(self, batch: int) -> "Fault":
        """The same fault without the batches before `batch`."""
        spans = tuple((max(first, batch), last) for first, last in self.batches if last is None or last >= batch)
        return replace(self, batches=spans)

    def acts_on(self, batch: Column) -> Column:
        spans = [(batch >= first) if last is None else batch.between(first, last) for first, last in self.batches]
        return reduce(Column.__or__, spans)


def parsed_faults(texts: Sequence[str]) -> tuple[Fault, ...]:
    """The faults that the texts name. Raises ConfigError, naming every mistake and what is known."""
    faults, problems = [], []
    for text in texts:
        try:
            faults.append(_parsed(text))
        except ConfigError as error:
            problems.append(f"  - {text!r}: {error}")
    if problems:
        raise ConfigError("faults of the simulated bank:\n" + "\n".join(problems))
    return tuple(faults)


def shifts(faults: Sequence[Fault], *, start: datetime, hours: int) -> tuple[tuple[datetime, datetime], ...]:
    """The intervals [from, to) in which behaviour is shifted (`Bank.shifts`)."""
    spans = [span for fault in faults if fault.name == "covid" for span in fault.batches]
    lasting = timedelta(days=36_500)
    return tuple(
        (
            start + timedelta(hours=hours * first),
            start + (lasting if last is None else timedelta(hours=hours * (last + 1))),
        )
        for first, last in spans
    )


def with_arrivals(rows: DataFrame, table: RawTable, faults: Sequence[Fault], *, seed: int) -> DataFrame:
    """Rows with `batch` -> the same rows as they are sent, once or more, with `batch` that of their arrival."""
    batch, draw = F.col("batch"), partial(_draw, table, seed)
    sent, delay = F.array(F.lit(0)), F.lit(0)
    for fault in _of(faults, table, "late"):
        is_late = fault.acts_on(batch) & (draw("late") < fault.strength)
        delay = F.when(is_late, integer(draw("how late"), 1, MOST_BATCHES_LATE)).otherwise(delay)
    for fault in _of(faults, table, "duplicated"):
        is_again = fault.acts_on(batch) & (draw("duplicated") < fault.strength)
        again = F.array(F.lit(0), integer(draw("sent again"), 0, 1))
        sent = F.when(is_again, again).otherwise(sent)
    if not _of(faults, table, "late", "duplicated"):
        return rows
    arrivals = rows.select("*", delay.alias("delay"), F.explode(sent).alias("again"))
    arrival = (batch + F.col("delay") + F.col("again")).cast("int")
    return arrivals.withColumn("batch", arrival).select(*rows.columns)


def most_batches_delayed(faults: Sequence[Fault], table: RawTable) -> int:
    """By how many batches a row of the table can arrive after it was made."""
    late, duplicated = _of(faults, table, "late"), _of(faults, table, "duplicated")
    return (MOST_BATCHES_LATE if late else 0) + (1 if duplicated else 0)


def with_wrong_values(rows: DataFrame, table: RawTable, faults: Sequence[Fault], *, seed: int) -> DataFrame:
    """Rows with `batch` -> the same columns with other values, fewer rows, and `is_corrupt` (damage when written)."""
    draw, batch, is_corrupt = partial(_draw, table, seed), F.col("batch"), F.lit(False)
    for fault in _of(faults, table, *KINDS):
        active = fault.acts_on(batch)
        if fault.name == "quiet_day":
            rows = rows.where(~active | (draw("quiet") < fault.strength))
        elif fault.name == "category_dropped":
            rows = rows.where(~active | (F.col("category") != DROPPED_CATEGORY))
        elif fault.name == "clock_skew":
            ahead = F.timestamp_micros(F.unix_micros("clicked_at") + F.lit(int(fault.strength * 60_000_000)))
            skewed = F.when(active & (F.col("channel") == "app"), ahead).otherwise(F.col("clicked_at"))
            rows = rows.withColumn("clicked_at", skewed)
        elif fault.name == "page_renamed":
            is_renamed = active & (F.col("page") == RENAMED_PAGE)
            rows = rows.withColumn("page", F.when(is_renamed, NEW_PAGE).otherwise(F.col("page")))
        elif fault.name == "amounts_in_cents":
            number = F.col(str(table.number))
            rows = rows.withColumn(str(table.number), F.when(active, F.round(number * 100, 0)).otherwise(number))
        elif fault.name == "corrupt":
            is_corrupt = is_corrupt | (active & (draw("corrupt") < fault.strength))
    return rows.withColumn("is_corrupt", is_corrupt)


def has(faults: Sequence[Fault], name: str, table: RawTable, batch: int) -> bool:
    """Whether a fault of this name acts on this batch of the table."""
    return any(fault.is_active(batch) for fault in _of(faults, table, name))


def _of(faults: Sequence[Fault], table: RawTable, *names: str) -> list[Fault]:
    return [fault for fault in faults if fault.name in names and table.name in fault.tables]


def _draw(table: RawTable, seed: int, stream: str) -> Column:
    """A draw for each row, from its key."""
    return chance(seed, f"fault {table.name} {stream}", F.xxhash64(*table.key))


def _parsed(text: str) -> Fault:
    written = _WRITTEN.fullmatch(text)
    if written is None:
        raise ConfigError("expected NAME[.TABLE][=BATCHES[:STRENGTH]], such as late=2-4:0.1")
    name, table = written["name"], written["table"]
    if name not in KINDS:
        close = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"no fault '{name}'; {hint}There are {', '.join(KINDS)}")
    kind = KINDS[name]
    if table is not None and table not in kind.tables:
        raise ConfigError(
            f"'{name}' does not act on '{table}'; tables: {', '.join(kind.tables) or 'none can be named'}"
        )
    strength = kind.strength
    if written["strength"] is not None:
        strength = _strength(written["strength"], kind)
    tables = (table,) if table is not None else kind.usual or kind.tables
    return Fault(name, tables, _batches(written["batches"] or ""), strength or 0.0)


def _strength(text: str, kind: FaultKind) -> float:
    if kind.strength is None:
        raise ConfigError(f"it has no strength, found ':{text}'")
    try:
        strength = float(text)
    except ValueError:
        strength = -1.0
    if not 0 <= strength <= kind.most:
        raise ConfigError(f"strength: expected a number from 0 to {kind.most:g}, found '{text}'")
    return strength


def _batches(text: str) -> tuple[tuple[int, int | None], ...]:
    spans: list[tuple[int, int | None]] = []
    for part in text.split(",") if text else ["0-"]:
        found = re.fullmatch(r"(\d+)(-?)(\d*)", part)
        if found is None:
            raise ConfigError(f"batches: expected such as 3, 2-4, 2- or 2-4,7, found '{text}'")
        first = int(found[1])
        last = int(found[3]) if found[3] else None if found[2] else first
        if last is not None and last < first:
            raise ConfigError(f"batches: {part} ends before it begins")
        spans.append((first, last))
    return tuple(spans)
