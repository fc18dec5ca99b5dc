"""A small simulated bank (synthetic) that was built in full and refreshed daily, at noon, and what one more day does to
it: under each switch, that day is delivered to a copy of the same root."""

import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.errors import CasprError
from caspr_spark.simulate.bank.batches import deliver_batch, write_batches
from caspr_spark.simulate.bank.customers import Bank
from caspr_spark.simulate.bank.faults import parsed_faults, shifts
from caspr_spark.simulate.bank.tables import TABLES
from pipelines.full_build import full_build
from pipelines.refresh import refresh

BANK_CONFIG = Path(__file__).parents[2] / "conf" / "bank.yaml"
SOURCES = ("card_transactions", "account_transactions", "clicks")
TABLE_NAMES = (*SOURCES, "accounts")
BANK = Bank(num_customers=1500, start=datetime(2024, 1, 21, 12, tzinfo=UTC), seed=5)
"""It begins late in a month: what is booked on the first of one is known from the build, and no other comes."""
HOURS = 24
DAYS_BUILT = 21
DAYS_QUIET = 11
"""Refreshes of one day each, after the build: what the judged day is compared with."""
JUDGED_DAY = DAYS_BUILT + DAYS_QUIET


@dataclass(frozen=True)
class Outcome:
    """What a refresh gave its user."""

    exit_code: int
    error: str
    """The message; empty where there is none."""
    notes: list[str]
    alerts: list[dict[str, Any]]
    """What was sent."""
    config: Config
    """Of the root that was refreshed."""


class SwitchedBank:
    """The bank as of its last quiet day, in `folder`."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder = spark, folder

    def live_quietly(self) -> list[Outcome]:
        """Write the batches, build the first days in full, refresh the quiet ones; what the refreshes gave."""
        self.simulate("quiet", range(JUDGED_DAY))
        for day in range(DAYS_BUILT):
            self._deliver("quiet", day)
        full_build(self.spark, self.config("quiet"), [as_of(DAYS_BUILT - 1)])
        return [self.refreshed("quiet", day) for day in range(DAYS_BUILT, JUDGED_DAY)]

    def simulate(self, name: str, days: range, *faults: str) -> None:
        """Write these days, from the first of which on the bank is under the faults."""
        active = [fault.since(days[0]) for fault in parsed_faults(faults)]
        bank = replace(BANK, shifts=shifts(active, start=BANK.start, hours=HOURS))
        for table in TABLE_NAMES:
            folder = self.folder / "staged" / name
            write_batches(self.spark, bank, TABLES[table], folder, hours=HOURS, batches=days, faults=active)

    def refreshed_copy(self, name: str) -> Outcome:
        """What a refresh makes of the judged day of `simulate(name)`, in a root of its own."""
        for table in TABLE_NAMES:
            for day in (self.folder / "raw" / table).glob("batch-*"):
                if int(day.name.removeprefix("batch-")) >= JUDGED_DAY:
                    shutil.rmtree(day)
        shutil.copytree(self.folder / "roots" / "quiet", self.folder / "roots" / name)
        return self.refreshed(name, JUDGED_DAY)

    def refreshed(self, root: str, *days: int) -> Outcome:
        """Deliver these days, as they were simulated for the root, and refresh it once."""
        for day in days:
            self._deliver(root, day)
        config = self.config(root)
        sent = Path(str(config.monitor.alert_file))
        num_sent = len(_lines(sent))
        notes: list[str] = []

        def noted(_name: str, step: Any) -> Any:
            summary = step()
            notes.extend(summary.notes)
            return summary

        try:
            refresh(self.spark, config, as_of(days[-1]), run_step=noted)
            exit_code, error = 0, ""
        except CasprError as raised:
            exit_code, error = raised.exit_code, str(raised)
        return Outcome(exit_code, error, notes, [json.loads(line) for line in _lines(sent)[num_sent:]], config)

    def config(self, root: str) -> Config:
        """conf/bank.yaml with the tables that the switches act on, a small model, and an alert that is an exit code."""
        declared = yaml.safe_load(BANK_CONFIG.read_text(encoding="utf-8"))
        declared["sources"] = {name: declared["sources"][name] for name in SOURCES}
        for name, table in (declared["sources"] | declared["profiles"]).items():
            table["path"] = str(self.folder / "raw" / name / "batch-*")
        declared |= {
            "root": str(self.folder / "roots" / root),
            "events": {"ahead": {"by_source": {"clicks": {"max_hours": 0.1, "on_fail": "stop"}}}},
            "model": {"embedding_size": 16, "width": 16, "num_heads": 2, "feed_forward": 32}
            | {"encoder_layers": 1, "decoder_layers": 1},
            "pretrain": {"max_epochs": 2},
            "evaluate": {"tasks": {}},
            "monitor": {"on_drift": "stop", "alert_file": str(self.folder / "alerts" / f"{root}.jsonl")},
        }
        overlay = self.folder / f"{root}.yaml"
        overlay.write_text(yaml.safe_dump(declared), encoding="utf-8")
        return load_config([overlay])

    def _deliver(self, name: str, day: int) -> None:
        deliver_batch(self.folder / "staged" / name, self.folder / "raw", day)


def as_of(day: int) -> datetime:
    """The end of a day, exclusive."""
    return BANK.start + timedelta(hours=HOURS * (day + 1))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
