"""What full builds over all raw rows give, and what lies below a root, as values that can be compared."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.tables import table_path
from jobs.bench_refresh import take_over_model
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.contracts import event_contract, profile_contract
from pipelines.embed_customers import embed_customers
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDINGS, EMBEDDINGS
from schemas.events import REJECTED

Rows = Mapping[str, Mapping[str, Any]]
"""customer_id -> the customer's row."""


class FullBuilds:
    """Full builds with the model of a root, below `folder`; each is made once as long as no raw table changes."""

    def __init__(self, spark: SparkSession, config: Config, folder: Path) -> None:
        self._spark, self._config = spark, config.model_copy(update={"root": str(folder)})
        self._tables: dict[str, list[str]] = {}
        self._vectors: dict[datetime, Rows] = {}
        take_over_model(Path(config.root), folder)

    def tables(self, as_of: datetime) -> dict[str, list[str]]:
        """As `tables_below`. Events do not depend on `as_of`; it is what the build is called with."""
        if build_events(self._spark, self._config, as_of).changed:
            self._tables, self._vectors = tables_below(self._config), {}
        return self._tables

    def sequences(self, as_of: datetime) -> dict[str, str]:
        """As `sequences_below`, of all customers."""
        self.tables(as_of)
        build_sequences(self._spark, self._config, as_of, fit_vocabulary=False)
        return sequences_below(self._config, as_of)

    def vectors(self, as_of: datetime) -> Rows:
        """customer_id -> the row of EMBEDDINGS."""
        self.sequences(as_of)
        if as_of not in self._vectors:
            embed_customers(self._spark, self._config, as_of)
            self._vectors[as_of] = by_customer(rows_below(self._config, EMBEDDINGS))
        return self._vectors[as_of]


def tables_below(config: Config) -> dict[str, list[str]]:
    """`events`, `profiles` and `rejected` -> their rows, in one order."""
    contracts = (event_contract(config), profile_contract(config), REJECTED)
    return {contract.name: sorted(map(repr, rows_below(config, contract))) for contract in contracts}


def sequences_below(config: Config, as_of: datetime) -> dict[str, str]:
    """Customer -> all that the sequences as of a time hold."""
    folder = sequences_folder(config.root, as_of)
    files = [pq.ParquetFile(folder / file.path) for file in read_manifest(folder).files]
    return {row["customer_id"]: repr(row) for file in files for row in file.read().to_pylist()}


def served(config: Config) -> dict[str, dict[str, Any]]:
    """Customer -> the row of the latest table."""
    return by_customer(rows_below(config, CUSTOMER_EMBEDDINGS))


def rows_below(config: Config, contract: Contract) -> list[dict[str, Any]]:
    """A table's rows, read without Spark."""
    rows: list[dict[str, Any]] = DeltaTable(table_path(contract, config.root)).to_pyarrow_table().to_pylist()
    return rows


def by_customer(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """One row a customer, or the test fails."""
    listed = list(rows)
    found = {row["customer_id"]: row for row in listed}
    assert len(found) == len(listed)
    return found


def assert_as_built(found: Rows, builds: FullBuilds) -> None:
    """Every vector is the one of a full build as of the vector's own as_of."""
    for as_of in sorted({row["as_of"] for row in found.values()}):
        wanted = builds.vectors(as_of)
        for customer, row in found.items():
            if row["as_of"] == as_of:
                np.testing.assert_allclose(
                    row["embedding"], wanted[customer]["embedding"], atol=1e-5, err_msg=f"{customer} as of {as_of}"
                )
