"""One version of one published table, and the conditions that decide which of its files are opened."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from caspr_spark.errors import CasprError
from schemas.contract import Contract


@dataclass(frozen=True)
class Snapshot:
    """One version of the table at `path`."""

    path: Path
    table: DeltaTable

    @property
    def version(self) -> int:
        return int(self.table.version())


def snapshot(root: str | Path, contract: Contract, version: int | None) -> Snapshot:
    """The table at `version`, or at its newest. Raises CasprError where there is no such table or version."""
    path = (Path(root) / contract.name).resolve()
    try:
        newest = Snapshot(path, DeltaTable(str(path)))
    except TableNotFoundError:
        raise CasprError(
            f"{path}: no table '{contract.name}' here; is this the root that `caspr-spark publish` wrote to?"
        ) from None
    if version is None or version == newest.version:
        return newest
    if not 0 <= version < newest.version:
        raise CasprError(f"{path}: there is no version {version}; the newest is {newest.version}")
    try:
        return Snapshot(path, DeltaTable(str(path), version=version))
    except DeltaError:
        raise _no_longer_there(path, version) from None


def rows_of(table: Snapshot, contract: Contract, columns: Iterable[str], conditions: list[Any]) -> Any:
    """Columns of the rows that meet all conditions, a pyarrow.Table; files that cannot hold one are not opened."""
    columns = list(dict.fromkeys(columns))
    # Not the file system that deltalake brings: it is Python, and Arrow's threads may still want to call it when Python
    # ends. One program in ten that ended right after reading was aborted (exit code 134).
    files = SubTreeFileSystem(str(table.path), LocalFileSystem())
    found = table.table.to_pyarrow_dataset(filesystem=files)
    if missing := [name for name in columns if name not in found.schema.names]:
        raise CasprError(
            f"{table.path}: no column {', '.join(missing)}, which the contract '{contract.name}' has; "
            "the table was written by another version of caspr-spark"
        )
    condition = None
    for each in conditions:
        condition = each if condition is None else condition & each
    try:
        return found.to_table(columns=columns, filter=condition)
    except FileNotFoundError:
        raise _no_longer_there(table.path, table.version) from None


def _no_longer_there(path: Path, version: int) -> CasprError:
    newest = DeltaTable(str(path)).version()
    return CasprError(
        f"{path}: version {version} can no longer be read: maintenance or the erasure of customers has removed its "
        f"files for good. The newest version is {newest}; without version= that is the one that is read"
    )


def of_model(model_version: str | None) -> list[Any]:
    return [] if model_version is None else [pc.field("model_version") == model_version]


def is_among(column: str, values: Any) -> Any:
    """Also says between which values: only that lets files and row groups be skipped by their smallest and largest."""
    values = values.drop_null().unique()
    if not len(values):
        return pc.scalar(False)
    bounds = pc.min_max(values)
    field = pc.field(column)
    return (field >= bounds["min"]) & (field <= bounds["max"]) & field.isin(values)


def is_within(times: Any, max_age: timedelta | None) -> Any:
    """as_of is not after the last time, and not more than `max_age` before the first."""
    if max_age is not None and max_age < timedelta(0):
        raise CasprError(f"max_age: expected zero or more, found {max_age}")
    bounds = pc.min_max(times)
    if not bounds["min"].is_valid:
        return pc.scalar(False)
    within = pc.field("as_of") <= bounds["max"]
    if max_age is None:
        return within
    return within & (pc.field("as_of") >= pc.subtract_checked(bounds["min"], pa.scalar(max_age, pa.duration("us"))))
