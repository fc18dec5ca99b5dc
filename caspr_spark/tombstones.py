"""Erased customers: no table says who they were, but raw rows that name one of them are recognised and left out.

A tombstone is the hex SHA-256 of a secret key, 64 hex digits, and the customer_id. The key is drawn once below the
root and readable by its owner alone; without it the few ids that a bank has could be tried one after another. A plain
hash of the two is enough, and Spark has it without a Python function: the key is of fixed length and comes first, and
nobody gains anything from making further hashes (which is what HMAC would keep them from).
"""

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.errors import UnsafeError
from caspr_spark.session import local_frame
from caspr_spark.tables import read_table, table_exists
from schemas.tombstones import TOMBSTONES

ERASURES = "erasures"
TOKEN = r"\w(?:[\w@.+-]*\w)?"
"""A word that may be an id, in text of any kind; a regular expression."""
SHORT_NUMBER = r"[0-9]{1,5}"
"""An id that is a number this short stands for anything (a quantity, a page): it is looked for only where customers
stand."""

_KEY_BYTES = 32
_HASH, _KEY = "__tombstone_hash", "__tombstone_key"  # names that no raw table has


def secret_key(root: str) -> str:
    """The key of the hashes below `root`, drawn for the first request.

    Raises:
        UnsafeError: the key is gone; with another one nobody would be recognised.
    """
    place = Path(root) / ERASURES / "key"
    if not place.exists():
        if (Path(root) / TOMBSTONES.name).exists() or any(place.parent.glob("*.json")):
            raise UnsafeError(
                f"{place}: the key of the tombstones is gone, so erased customers cannot be told from others and would "
                "come back; put it back from a copy"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, place)
    return place.read_text()


def customer_hash(key: str, customer_id: str) -> str:
    """The tombstone of a customer."""
    return hashlib.sha256(f"{key}{customer_id}".encode()).hexdigest()


@dataclass(frozen=True)
class Tombstones:
    """All tombstones below a root: `hashes` has the column customer_hash, `key` one row with the key.

    The key is a table and no literal, so that no plan shows it.
    """

    hashes: DataFrame
    key: DataFrame

    def living(self, rows: DataFrame, customer: Column) -> DataFrame:
        """The rows whose `customer` (a string column) has no tombstone; those of nobody too."""
        return self._joined(rows, customer, "left_anti")

    def erased(self, rows: DataFrame, customer: Column) -> DataFrame:
        """The rows whose `customer` has a tombstone."""
        return self._joined(rows, customer, "left_semi")

    def naming(self, rows: DataFrame, text: str) -> DataFrame:
        """The rows whose text names an erased customer: as a value of a JSON object, or as a word of any text."""
        texts = rows.select(text).distinct()
        values = F.map_values(F.from_json(text, "map<string, string>"))
        words = F.regexp_extract_all(text, F.lit(f"(?U)({TOKEN})"), F.lit(1))
        named = F.concat(F.coalesce(values, F.array().cast("array<string>")), words)
        each = texts.select(text, F.explode(F.array_distinct(named)).alias("name"))
        telling = each.where(F.col("name").isNotNull() & ~F.col("name").rlike(f"^{SHORT_NUMBER}$"))
        return rows.join(self.erased(telling, F.col("name")).select(text).distinct(), on=text, how="left_semi")

    def _joined(self, rows: DataFrame, customer: Column, how: str) -> DataFrame:
        keyed = rows.crossJoin(F.broadcast(self.key))
        hashed = keyed.withColumn(_HASH, F.sha2(F.concat(F.col(_KEY), customer), 256))
        hashes = self.hashes.withColumnRenamed("customer_hash", _HASH)
        return hashed.join(hashes, on=_HASH, how=how).drop(_HASH, _KEY)


def tombstones(spark: SparkSession, root: str) -> Tombstones | None:
    """The tombstones below a root; None where nobody was erased.

    Raises:
        UnsafeError: there are tombstones, but the key that they were made with is gone.
    """
    if not table_exists(spark, TOMBSTONES, root):
        return None
    hashes = read_table(spark, TOMBSTONES, root).select("customer_hash").distinct()
    return Tombstones(hashes, local_frame(spark, [(secret_key(root),)], f"`{_KEY}` string"))
