"""Random customers for the oracle: ties, gaps, future events, nulls, sets, profiles that change; from a seed alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import yaml
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.session import local_frame
from caspr_spark.tables import column_types, write_table
from pipelines.contracts import event_contract, profile_contract
from schemas.contract import Contract
from tests.sequences.oracle import Row, Settings

AS_OF = datetime(2024, 6, 1, tzinfo=UTC)
MAX_EVENTS, MIN_COUNT = 5, 4
TIME_PARTS, ZONE = ["hour", "weekday", "day_of_month", "month"], "Europe/Berlin"
SETTINGS = Settings(
    as_of=AS_OF,
    max_events=MAX_EVENTS,
    min_count=MIN_COUNT,
    time_parts=TIME_PARTS,
    zone=ZONE,
    categorical=["channel", "store"],
    sets={"tags": 3, "flags": 2},
    numerical=["amount", "score"],
    profile_categorical={"region": "accounts", "language": "people"},
    profile_numerical={"income": "accounts"},
)


def bank_config(folder: Path, **sequences: int | float) -> Config:
    """Tables below `folder`/root; the raw files are never read."""
    raw = {"format": "csv", "path": "none.csv", "entity": "c"}
    attributes = {
        "channel": {"kind": "categorical"},
        "tags": {"kind": "set", "max_values": 3},
        "amount": {"kind": "numerical"},
        "store": {"kind": "categorical"},
        "flags": {"kind": "set", "max_values": 2},
        "score": {"kind": "numerical"},
    }
    overlay = {
        "dataset": "bank",
        "root": str(folder / "root"),
        "seed": 3,
        "sources": {"shop": raw | {"time": {"column": "t"}, "attributes": attributes}},
        "profiles": {
            "accounts": raw | {"attributes": {"region": {"kind": "categorical"}, "income": {"kind": "numerical"}}},
            "people": raw | {"attributes": {"language": {"kind": "categorical"}}},
        },
        "sequences": {
            "max_events": MAX_EVENTS,
            "min_count": MIN_COUNT,
            "time_parts": TIME_PARTS,
            "time_zone": ZONE,
            "validation_share": 0.3,
            "customers_per_row_group": 10,
        }
        | sequences,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bank.yaml").write_text(yaml.safe_dump(overlay, sort_keys=False))
    return load_config([folder / "bank.yaml"])


def random_events(random: Random, num_customers: int, *, prefix: str = "") -> list[Row]:
    """0 to 12 events a customer; a quarter of the times repeat the one before, some lie at or after AS_OF."""
    events = []
    for customer in range(num_customers):
        time = AS_OF - timedelta(days=random.randint(0, 300), microseconds=random.randint(0, 10**6))
        for _ in range(random.randint(0, 12)):
            pick = random.random()
            if pick < 0.1:
                time = AS_OF
            elif pick < 0.75:
                time += timedelta(seconds=random.choice([1, 3600, 86400 * 7, 86400 * 60]))
            events.append(
                {
                    "customer_id": f"{prefix}c{customer}",
                    "event_time": time,
                    "event_id": f"{random.choice(['shop', 'web'])}:{prefix}{random.randrange(10**9)}",
                    "source": random.choice(["shop", "web", "web"]),
                    "session_id": None,
                    "num_raw_rows": 1,
                    "num_values_cut": 0,
                    "channel": random.choice([None, "till", "app", "äpp", "Zoo", "rare"]),
                    "tags": random.choice([None, ["x"], ["y", "x"], ["z", "x", "é"], [f"one{random.randrange(50)}"]]),
                    "amount": random.choice([None, 0.0, -0.25, 12.5, 1e6, random.uniform(-50, 50)]),
                    "store": random.choice([None, f"s{random.randrange(25)}"]),
                    "flags": random.choice([None, None, ["on", "off"]]),
                    "score": None if random.random() < 0.9 else 7.5,
                }
            )
    random.shuffle(events)
    return events


def random_profiles(random: Random, num_customers: int) -> list[Row]:
    """Accounts that change, some of them after AS_OF; languages that always held."""
    profiles = []
    for customer in range(num_customers):
        empty = {"customer_id": f"c{customer}", "region": None, "income": None, "language": None}
        for day in random.sample(range(-300, 30), random.choice([0, 1, 3])):
            account = {"region": random.choice(["north", "south", "far"]), "income": random.choice([None, 1e4, 2.5e4])}
            since = AS_OF + timedelta(days=day)
            profiles.append(empty | account | {"profile": "accounts", "valid_from_time": since})
        if random.random() < 0.6:
            always = {"profile": "people", "valid_from_time": datetime(1970, 1, 1, tzinfo=UTC)}
            profiles.append(empty | always | {"language": random.choice(["de", "fr", "en", "en"])})
    return profiles


def write_bank(
    spark: SparkSession, config: Config, events: list[Row], profiles: list[Row], *, partitions: int = 1
) -> None:
    """The tables that stage events would have written."""
    for rows, contract in ((events, event_contract(config)), (profiles, profile_contract(config))):
        _write(spark, config, rows, contract, partitions)


def _write(spark: SparkSession, config: Config, rows: list[Row], contract: Contract, partitions: int) -> None:
    values = [tuple(row[name] for name in column_types(contract)) for row in rows]
    frame = local_frame(spark, values, contract.ddl.replace(" not null", ""))
    write_table(frame.repartition(partitions), contract, config.root)
