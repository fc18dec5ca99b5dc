"""Odd numbers and odd customer ids from the raw rows to the sequences."""

import math
import sys
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.tables import read_table
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.contracts import event_contract
from schemas.vocabulary import SCALING
from tests.events.cases import AS_OF, LENIENT, config_of, visits
from tests.sequences.random_bank import AS_OF as BANK_AS_OF
from tests.sequences.random_bank import bank_config, write_bank
from tests.sequences.test_against_oracle import EVENTS

MAX = sys.float_info.max
TIME = "2024-01-01T10:00:00Z"
ODD_IDS = [
    "'; DROP TABLE events; --",
    "line one\nline two",
    " ann ",
    "🦊",
    "مرحبا",
    "../up",
    "a`b\\c%2F$1",
    "null",
    "\t",
    "é",
    "é",
]


def test_f31_odd_numbers_are_rejected_or_kept_finite_up_to_the_sequences(spark: SparkSession, tmp_path: Path) -> None:
    lines = ["id,basket,customer,at,amount"]
    for number, amount in enumerate(["NaN", "inf", "-Infinity", "1e400", "-0.0", "1e300", "1.5"]):
        lines.append(f"{number},{number},ann,{TIME},{amount}")
    lines += [f"{number},b{sign},bob,{TIME},{sign}1.7e308" for sign in ("", "-") for number in (10, 11)]
    (tmp_path / "visits.csv").write_text("\n".join(lines) + "\n")
    amount = {"kind": "numerical", "aggregate": "sum"}
    declared = visits(
        tmp_path / "visits.csv", key=["id", "basket"], group={"by": ["basket"]}, attributes={"amount": amount}
    )
    sections = {"sequences": {"min_count": 1, "validation_share": 0.0, "max_events": 4}}
    config = config_of(tmp_path, LENIENT, sources={"visits": declared}, **sections)
    build_events(spark, config, AS_OF)

    events = read_table(spark, event_contract(config), config.root).collect()
    assert sorted(event["amount"] for event in events) == [-MAX, 0.0, 1.5, 1e300, MAX]

    build_sequences(spark, config, AS_OF)
    (scaling,) = read_table(spark, SCALING, config.root).where("attribute = 'amount'").collect()
    assert scaling["count"] == 5
    assert math.isfinite(scaling["mean"])
    assert math.isfinite(scaling["standard_deviation"])
    logs = [math.copysign(math.log1p(abs(event["amount"])), event["amount"]) for event in events]
    assert math.isclose(scaling["mean"], sum(logs) / 5, abs_tol=1e-6)


def test_f37_customers_of_any_name_have_sequences_of_their_own(spark: SparkSession, tmp_path: Path) -> None:
    config = bank_config(tmp_path, min_count=1, validation_share=0.0)
    earlier = {"event_time": BANK_AS_OF - timedelta(days=1)}
    events = [
        EVENTS[0] | earlier | {"customer_id": name, "event_id": f"shop:{number}", "amount": float(number)}
        for number, name in enumerate(ODD_IDS)
    ]
    write_bank(spark, config, events, [])
    build_sequences(spark, config, BANK_AS_OF)

    found = amounts_by_customer(config)
    assert found == {name: float(number) for number, name in enumerate(ODD_IDS)}


def amounts_by_customer(config: Config) -> dict[str, float]:
    folder = sequences_folder(config.root, BANK_AS_OF)
    rows = [row for file in read_manifest(folder).files for row in pq.read_table(folder / file.path).to_pylist()]
    assert len({row["customer_id"] for row in rows}) == len(rows) == len({row["customer_key"] for row in rows})
    return {row["customer_id"]: row["numerical"][0] for row in rows}
