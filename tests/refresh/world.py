"""A small shop whose raw tables change as real ones do, and what a build from all of them would give.

Orders come as CSV lines grouped into orders, page views as JSON with sessions, payments as a Delta table with updates
and deletions, accounts as Parquet snapshots. Every change is drawn from one seeded generator.
"""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.disk import kept_on_disk
from caspr_spark.events.sources import judged_tables
from caspr_spark.session import local_frame
from caspr_spark.tables import read_table
from pipelines.build_events import made_tables
from pipelines.contracts import event_contract, profile_contract
from schemas.events import REJECTED
from tests.events.cases import LENIENT, config_of

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 60
CUSTOMERS = [f"c{number}" for number in range(8)]
CHANGES = (
    "new_orders",
    "repeated_orders",
    "repeated_file",
    "orders_of_other_columns",
    "new_views",
    "new_accounts",
    "unreadable_accounts",
    "new_payments",
    "repeated_payments",
    "corrected_payment",
    "deleted_payments",
    "rewritten_file",
)
"""Everything that may happen to the raw tables at any time: methods of World."""
_NO_PARQUET = b"PAR1 and no end"


class World:
    """The raw tables below `folder`; each method named after a change makes one more of it."""

    def __init__(self, spark: SparkSession, folder: Path, seed: int, **sections: Any) -> None:
        self.spark, self.folder, self.random = spark, folder, Random(seed)
        self.num_files = 0
        self.orders: list[str] = []
        self.views: list[str] = []
        self.next_payment = 0
        for name in ("orders", "views", "accounts"):
            (folder / name).mkdir(parents=True)
        for _ in range(3):
            self.new_orders()
            self.new_views()
        self.new_accounts()
        self.new_payments(create=True)
        self.sections = sections

    def config(self, root: str = "root") -> Config:
        """The declaration of these tables; what is built lies in `root` below the folder."""
        config = config_of(self.folder, LENIENT, sources=self._sources(), profiles=self._profiles(), **self.sections)
        return config.model_copy(update={"root": str(self.folder / root)})

    def new_orders(self, num_lines: int = 12) -> None:
        """Lines of new orders, and more lines of old ones."""
        lines = []
        for _ in range(num_lines):
            order = self.random.randrange(30)
            customer = CUSTOMERS[order % len(CUSTOMERS)]
            time = START + timedelta(days=order * 2, seconds=self.random.randrange(90_000))
            price = self.random.choice(["1.1", "2.7", "0.3", "19.99", "free"])
            lines.append(
                f"{order},{self.random.randrange(3)},{customer},{time:%Y-%m-%d %H:%M:%S},p{len(price)},{price}"
            )
        lines.append(f"99,0,,{START:%Y-%m-%d %H:%M:%S},p0,1")  # of nobody
        self.orders += lines
        self._write("orders", "csv", "\n".join(["order,line,customer,at,product,price", *lines]))

    def repeated_orders(self) -> None:
        """Lines that were there before, in another order and file."""
        lines = self.random.sample(self.orders, 5)
        self._write("orders", "csv", "\n".join(["order,line,customer,at,product,price", *lines]))

    def repeated_file(self) -> None:
        """A file that was there before, once more under another name."""
        table = self.folder / self.random.choice(["orders", "views"])
        place = self.random.choice(sorted(table.iterdir()))
        shutil.copyfile(place, place.with_name(f"{self._next_name()}{place.suffix}"))

    def orders_of_other_columns(self) -> None:
        """Lines as another program writes them: known and new ones, in other columns and another order of them."""
        lines = [line.split(",") for line in self.random.sample(self.orders, 3)]
        lines.append([str(self.random.randrange(30)), "5", self.random.choice(CUSTOMERS), f"{START:%F %T}", "p9", "4"])
        rows = [f"{price},{product},{who},x,{at},{line},{order}" for order, line, who, at, product, price in lines]
        self._write("orders", "csv", "\n".join(["price,product,customer,coupon,at,line,order", *rows]))

    def unreadable_accounts(self) -> None:
        """A snapshot that ends in the middle."""
        (self.folder / "accounts" / f"{self._next_name()}.parquet").write_bytes(_NO_PARQUET)

    def new_views(self, num_views: int = 10) -> None:
        """Page views of any age: late ones join or part sessions."""
        lines = []
        for _ in range(num_views):
            customer = self.random.choice(CUSTOMERS)
            time = START + timedelta(days=self.random.randrange(3), minutes=5 * self.random.randrange(200))
            page = self.random.choice(["login", "home", "cart", "logout"])
            lines.append(json.dumps({"who": customer, "ts": time.isoformat(), "page": page}))
        lines.append("{broken")
        self.views += lines
        self._write("views", "json", "\n".join(lines))

    def new_accounts(self) -> None:
        """Snapshots of some accounts."""
        rows = [
            {
                "customer": customer,
                "since": pd.Timestamp(START + timedelta(days=self.random.randrange(DAYS))),
                "country": self.random.choice(["de", "fr", None]),
                "age": float(self.random.randrange(20, 80)),
            }
            for customer in self.random.sample(CUSTOMERS, 3)
        ]
        place = self.folder / "accounts" / f"{self._next_name()}.parquet"
        pd.DataFrame(rows).to_parquet(place, coerce_timestamps="us")

    def new_payments(self, num: int = 8, *, create: bool = False) -> None:
        rows = []
        for _ in range(num):
            time = START + timedelta(minutes=self.random.randrange(DAYS * 1440))
            rows.append((self.next_payment, self.random.choice(CUSTOMERS), time, self.random.random() * 100))
            self.next_payment += 1
        frame = local_frame(self.spark, rows, "id int, customer_id string, at timestamp, amount double")
        writer = frame.coalesce(1).write.format("delta").option("delta.enableChangeDataFeed", "true")
        writer.mode("overwrite" if create else "append").save(self._payments)

    def repeated_payments(self) -> None:
        """Rows that are there, once more."""
        number = self.random.randrange(self.next_payment)
        rows = self.spark.read.format("delta").load(self._payments).where(F.col("id").between(number, number + 1))
        rows.coalesce(1).write.format("delta").mode("append").save(self._payments)

    def corrected_payment(self) -> None:
        """One payment has another amount or customer."""
        number = self.random.randrange(self.next_payment)
        values = (
            {"amount": F.lit(self.random.random())}
            if self.random.random() < 0.5
            else {"customer_id": F.lit(self.random.choice(CUSTOMERS))}
        )
        DeltaTable.forPath(self.spark, self._payments).update(F.col("id") == number, values)

    def deleted_payments(self) -> None:
        number = self.random.randrange(self.next_payment)
        DeltaTable.forPath(self.spark, self._payments).delete(F.col("id").between(number, number + 1))

    def vacuumed_payments(self) -> None:
        """What the versions of the Delta table changed is no longer there."""
        shutil.rmtree(self.folder / "payments" / "_change_data", ignore_errors=True)

    def replaced_payments(self) -> None:
        """Another table stands in the place of the Delta table."""
        shutil.rmtree(self._payments)
        self.new_payments(create=True)

    def remove_customer(self, customer: str | None = None) -> None:
        """No raw table names the customer (any of them) any more."""
        customer = customer or self.random.choice(CUSTOMERS)
        for place in sorted((self.folder / "orders").glob("*.csv")) + sorted((self.folder / "views").glob("*.json")):
            lines = place.read_text().splitlines()
            kept = [line for line in lines if f",{customer}," not in line and f'"{customer}"' not in line]
            if kept != lines:
                place.write_text("\n".join(kept) + "\n")
        for place in (self.folder / "accounts").glob("*.parquet"):
            if place.read_bytes() == _NO_PARQUET:
                continue
            accounts = pd.read_parquet(place)
            accounts[accounts["customer"] != customer].to_parquet(place, coerce_timestamps="us")
        DeltaTable.forPath(self.spark, self._payments).delete(F.col("customer_id") == customer)

    def rewritten_file(self) -> None:
        """A file that was taken has other content under its old name."""
        place = self.random.choice(sorted((self.folder / "orders").glob("*.csv")))
        header, *lines = place.read_text().splitlines()
        place.write_text("\n".join([header, *lines[1:], "29,7,c5,2024-02-28 00:00:00,p1,5"]))

    def expected(self) -> dict[str, list[Any]]:
        """Table name -> its rows, made from all raw rows at once."""
        config = self.config()
        with kept_on_disk() as keep:
            made = made_tables(self.spark, config, judged_tables(self.spark, config), keep)
            return {
                "events": as_rows(made.events, event_contract(config).column_names),
                "profiles": as_rows(made.profiles, profile_contract(config).column_names),
                "rejected": as_rows(made.rejected, REJECTED.column_names),
            }

    def found(self) -> dict[str, list[Any]]:
        """Table name -> its rows as they were written below the root."""
        config = self.config()
        contracts = [event_contract(config), profile_contract(config), REJECTED]
        return {c.name: as_rows(read_table(self.spark, c, config.root), c.column_names) for c in contracts}

    @property
    def _payments(self) -> str:
        return str(self.folder / "payments")

    def _next_name(self) -> str:
        self.num_files += 1
        return f"{self.random.randrange(10**6):06}-{self.num_files}"  # not in the order in which they come

    def _write(self, table: str, format_: str, text: str) -> None:
        (self.folder / table / f"{self._next_name()}.{format_}").write_text(text + "\n")

    def _sources(self) -> dict[str, Any]:
        return {
            "orders": {
                "format": "csv",
                "path": f"{self.folder}/orders/*.csv",
                "entity": "customer",
                "time": {"column": "at", "zone": "UTC"},
                "key": ["order", "line"],
                "group": {"by": ["order"]},
                "attributes": {
                    "spend": {"kind": "numerical", "column": "price", "aggregate": "sum"},
                    "products": {"kind": "set", "column": "product", "aggregate": "distinct", "max_values": 2},
                },
            },
            "views": {
                "format": "json",
                "path": f"{self.folder}/views/*.json",
                "entity": "who",
                "time": {"column": "ts"},
                "attributes": {"page": {"kind": "categorical"}},
                "sessions": {"idle_minutes": 30, "starts_when": "page = 'login'", "ends_when": "page = 'logout'"},
            },
            "payments": {
                "format": "delta",
                "path": self._payments,
                "entity": "customer_id",  # a raw column of our own name
                "time": {"column": "at"},
                "key": ["id"],
                "attributes": {"amount": {"kind": "numerical"}},
            },
        }

    def _profiles(self) -> dict[str, Any]:
        return {
            "accounts": {
                "format": "parquet",
                "path": f"{self.folder}/accounts/*.parquet",
                "entity": "customer",
                "valid_from": {"column": "since", "zone": "UTC"},
                "attributes": {"country": {"kind": "categorical"}, "age": {"kind": "numerical"}},
            }
        }


def as_rows(table: DataFrame, columns: list[str]) -> list[Any]:
    """Rows in one order, whatever the table's."""
    return sorted((tuple(row) for row in table.select(*columns).collect()), key=repr)
