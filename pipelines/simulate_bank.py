"""The simulated bank: raw files of an invented bank, batch by batch. Everything that it writes is synthetic."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from caspr_spark.errors import ConfigError
from caspr_spark.simulate.bank.batches import write_batches
from caspr_spark.simulate.bank.customers import Bank
from caspr_spark.simulate.bank.faults import Fault, parsed_faults, shifts
from caspr_spark.simulate.bank.tables import TABLES
from pipelines.summary import Summary

RECORD_FILE = "simulation.json"
_LABEL = "synthetic: an invented bank; none of its customers exists"


def simulate_bank(
    spark: SparkSession,
    folder: Path,
    *,
    num_customers: int,
    start: datetime,
    num_batches: int,
    hours: int,
    seed: int,
    faults: Sequence[str] = (),
) -> Summary:
    """Write the batches 0 to `num_batches` - 1, of `hours` each from `start` on, that `folder` does not hold yet.

    What is there is never changed: a larger `num_batches` continues the same bank. `faults` (see
    `simulate/bank/faults.py`) act on batches that are new in this call, and stay switched on for later ones.

    Raises:
        ConfigError: a fault that there is not, or `folder` holds another bank.
    """
    world = {"num_customers": num_customers, "start": start.astimezone(UTC).isoformat(), "hours": hours, "seed": seed}
    if min(num_customers, hours) < 1:
        raise ConfigError(f"simulated bank: expected at least 1 customer and 1 hour, found {num_customers} and {hours}")
    record = _read_record(folder, world)
    first: int = record["num_batches"]
    switched: dict[str, int] = {**dict.fromkeys(faults, first), **record["faults"]}
    active = _active(switched)
    if num_batches <= first:
        return Summary("simulate", 0, 0, (f"{folder} holds {first} batches already",), changed=False)
    _write_record(folder, {**record, "faults": switched})

    bank = Bank(num_customers, start, seed, shifts=shifts(active, start=start, hours=hours))
    batches, notes, num_rows = range(first, num_batches), list[str](), 0
    for table in TABLES.values():
        count = write_batches(spark, bank, table, folder, hours=hours, batches=batches, faults=active)
        num_rows += count
        notes.append(f"{table.name}: {count:,} synthetic rows ({table.format})")
    _write_record(folder, {**record, "faults": switched, "num_batches": num_batches})
    return Summary("simulate", num_customers, num_rows, tuple(notes))


def _active(switched: dict[str, int]) -> list[Fault]:
    """The faults by their texts, each from the batch on that was the next when it was switched on."""
    active = [fault.since(first) for fault, first in zip(parsed_faults([*switched]), switched.values(), strict=True)]
    problems = [
        f"  - {text!r}: its batches are written already; the next is {first}"
        for (text, first), fault in zip(switched.items(), active, strict=True)
        if not fault.batches
    ]
    if problems:
        raise ConfigError("faults of the simulated bank:\n" + "\n".join(problems))
    return active


def _read_record(folder: Path, world: dict[str, Any]) -> dict[str, Any]:
    """What the folder holds: its world, the number of batches, and the faults that are switched on.

    Raises:
        ConfigError: it is another world.
    """
    place = folder / RECORD_FILE
    if not place.exists():
        return {"label": _LABEL, **world, "num_batches": 0, "faults": {}}
    record: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    if others := [f"{name} {record[name]}, not {value}" for name, value in world.items() if record[name] != value]:
        raise ConfigError(f"{folder} holds another simulated bank ({'; '.join(others)}); choose another folder")
    return record


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{RECORD_FILE}"
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / RECORD_FILE)
