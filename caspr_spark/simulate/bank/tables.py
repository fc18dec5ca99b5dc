"""The raw tables of the bank: how each is called, made and written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pyspark.sql import DataFrame

from caspr_spark.simulate.bank.customers import Bank
from caspr_spark.simulate.bank.money import account_transactions, card_transactions
from caspr_spark.simulate.bank.service import accounts, calls, takeovers
from caspr_spark.simulate.bank.visits import clicks, offers


@dataclass(frozen=True)
class RawTable:
    """`rows`: customer_days -> the table's columns and `at`, the moment in which a row is made.

    `key` identifies a row; `number` is the column that faults of numbers act on. How times are written goes with the
    format: CSV as text in UTC without zone, JSON lines as milliseconds since 1970, Parquet as timestamps.
    """

    name: str
    format: Literal["csv", "json", "parquet"]
    key: tuple[str, ...]
    number: str | None
    rows: Callable[[DataFrame, Bank], DataFrame]


# Of these, only clicks are JSON lines: an empty file of them has no columns, and some of the others have quiet days.
TABLES = {
    table.name: table
    for table in (
        RawTable("accounts", "csv", ("customer_id", "valid_from"), "birth_year", accounts),
        RawTable("card_transactions", "parquet", ("card_transaction_id",), "amount", card_transactions),
        RawTable("account_transactions", "csv", ("booking_id",), "amount", account_transactions),
        RawTable("clicks", "json", ("click_id",), "seconds", clicks),
        RawTable("calls", "parquet", ("call_id",), "seconds", calls),
        RawTable("offers", "parquet", ("offer_id", "stage"), None, offers),
        RawTable("takeovers", "csv", ("takeover_id",), "amount_lost", takeovers),
    )
}
