"""How far the raw tables were taken, and what arrived since: by files and Delta versions, never by a clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from delta.tables import DeltaTable
from pydantic import BaseModel, ConfigDict
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import NullType

from caspr_spark.config import Config, InputTable
from caspr_spark.errors import ConfigError, SchemaError, UnsafeError
from caspr_spark.events.columns import FileSchema, merged_columns, narrowed_columns, of_files
from caspr_spark.events.file_schemas import file_schemas, has_schema_in_file
from caspr_spark.events.places import table_files, table_location
from caspr_spark.events.raw import RawTable, cannot_open, maps_as_text, quoted, raw_table, with_origin
from caspr_spark.lineage import fingerprint
from caspr_spark.tables import is_missing_file

_NARROWED = "  the source's types were narrowed; if that is meant, run refresh with --compare-all"
_OF_ARRIVALS = {"events": {"volume", "freshness", "ahead"}}
"""What is asked of arrivals as a whole changes no row."""
_CHANGE = "_change_type"
_CHANGE_COLUMNS = (_CHANGE, "_commit_version", "_commit_timestamp")


class InputPosition(BaseModel):
    """How far one raw table was taken: its files, or its version. `unknown` for what has neither (table, jdbc)."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["files", "delta", "unknown"]
    files: dict[str, tuple[int, int]] = {}
    """Path -> size in bytes, time of last change in milliseconds."""
    schemas: tuple[FileSchema, ...] = ()
    """What columns the files have: follows from the files, and is kept so that each is looked at once."""
    table_id: str = ""
    version: int = -1

    def is_at(self, other: "InputPosition") -> bool:
        """True where the two have the same rows."""
        ours, theirs = self.model_copy(update={"schemas": ()}), other.model_copy(update={"schemas": ()})
        return ours == theirs and self.kind != "unknown"


class Position(BaseModel):
    """How far all raw tables were taken, and under which declaration of them."""

    model_config = ConfigDict(frozen=True)

    declared: str
    inputs: dict[str, InputPosition]

    @property
    def fingerprint(self) -> str | None:
        """Equal while tables, declaration and program are; None where that cannot be told."""
        if any(place.kind == "unknown" for place in self.inputs.values()):
            return None
        inputs = {where: place.model_dump(exclude={"schemas"}) for where, place in self.inputs.items()}
        return fingerprint(declared=self.declared, inputs=inputs)

    @property
    def schemas(self) -> dict[str, tuple[FileSchema, ...]]:
        """Where a table of files is declared -> what columns they have."""
        return {where: place.schemas for where, place in self.inputs.items() if place.kind == "files"}


@dataclass(frozen=True)
class Arrivals:
    """What one raw table has that was not taken: rows added, and rows that are no more as they were."""

    added: RawTable
    gone: DataFrame | None = None


def current_position(spark: SparkSession, config: Config, *, version: str, taken: Position | None = None) -> Position:
    """Where the raw tables stand now. `version` is the program's: another one may read the same rows differently.

    What columns the files have is read of those only that `taken` does not know.
    """
    declared = fingerprint(
        declared=config.model_dump(include={"sources", "profiles", "events"}, exclude=_OF_ARRIVALS, mode="json"),
        version=version,
    )
    known = taken.inputs if taken is not None and taken.declared == declared else {}
    return Position(
        declared=declared,
        inputs={
            where: _input_position(spark, table, where, known.get(where))
            for where, table in input_tables(config).items()
        },
    )


def input_tables(config: Config) -> dict[str, InputTable]:
    """Configuration key, e.g. sources.visits.lookups.products -> every raw table that is declared."""
    tables: dict[str, InputTable] = {f"sources.{name}": source for name, source in config.sources.items()}
    tables |= {f"profiles.{name}": profile for name, profile in config.profiles.items()}
    for name, source in config.sources.items():
        tables |= {f"sources.{name}.lookups.{lookup}": table for lookup, table in source.lookups.items()}
    return tables


def arrivals(spark: SparkSession, config: Config, taken: Position, now: Position) -> dict[str, Arrivals] | str:
    """Source or profile name -> what arrived between the two positions; or why only a look at all rows can tell.

    Raises:
        SchemaError: a column has a narrower type in new files than in all before, or one that does not fit.
        UnsafeError: a Delta table was replaced by another, or no longer has the changes since it was taken.
    """
    if taken.declared != now.declared:
        return "the declaration of the tables or the program changed"
    found: dict[str, Arrivals] = {}
    for where, table in input_tables(config).items():
        before, present = taken.inputs[where], now.inputs[where]
        if present.is_at(before):
            continue
        if ".lookups." in where:
            return f"{where} changed, which may change rows of any age"
        arrived = _arrived(spark, table, where, before, present)
        if isinstance(arrived, str):
            return arrived
        found[where.split(".")[1]] = arrived
    return found


def customers_of(arrived: Mapping[str, Arrivals], config: Config) -> DataFrame:
    """Distinct customer_id of all rows that arrived or are gone; null stands for rows that name nobody."""
    ids = [
        rows.select(F.col(quoted(config.activity_tables[name].entity)).cast("string").alias("customer_id"))
        for name, found in arrived.items()
        for rows in (found.added.rows, found.gone)
        if rows is not None
    ]
    return reduce(DataFrame.unionAll, ids).distinct()


def write_position(position: Position, root: str) -> str:
    """Keep a position below `root` under a name made of its content; returns the name."""
    text = position.model_dump_json()
    name = fingerprint(position=text)
    path = _position_path(root, name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)
    return name


def read_position(root: str, name: str) -> Position:
    return Position.model_validate_json(_position_path(root, name).read_text())


def taken_position(root: str, notes: Mapping[str, Any]) -> Position | None:
    """The position that a commit of `events` with these notes was made from; None where it has none."""
    name = notes.get("numbers", {}).get("position")
    return None if name is None else read_position(root, name)


def remove_other_positions(root: str, name: str | None) -> None:
    """Delete the positions below `root` that no commit needs any more: all but this one."""
    for path in Path(root).glob("positions/*.json"):
        if path.stem != name:
            path.unlink()


def _position_path(root: str, name: str) -> Path:
    return Path(root) / "positions" / f"{name}.json"


def _input_position(spark: SparkSession, table: InputTable, where: str, taken: InputPosition | None) -> InputPosition:
    if table.format in ("table", "jdbc"):
        return InputPosition(kind="unknown")
    path = table_location(table, where)
    if table.format == "delta":
        if not DeltaTable.isDeltaTable(spark, path):
            return InputPosition(kind="unknown")
        opened = DeltaTable.forPath(spark, path)
        newest, detail = opened.history(1).first(), opened.detail().first()
        assert newest is not None
        assert detail is not None
        return InputPosition(kind="delta", table_id=detail["id"], version=newest["version"])
    files = table_files(spark, table, where)
    known: tuple[FileSchema, ...] = ()
    if taken is not None:
        same = {path for path, state in taken.files.items() if files.get(path) == state}
        if len(same) == len(taken.files) or has_schema_in_file(table, where):
            known = of_files(taken.schemas, same)
    try:
        schemas = file_schemas(spark, table, where, list(files), known)
    except AnalysisException as error:
        raise cannot_open(error, table, where) from None
    return InputPosition(kind="files", files=files, schemas=schemas)


def _arrived(
    spark: SparkSession, table: InputTable, where: str, before: InputPosition, now: InputPosition
) -> Arrivals | str:
    if now.kind == "unknown" or before.kind == "unknown":
        return f"{where} has neither files nor versions that tell what is new"
    if now.kind == "delta":
        return _changes(spark, table, where, before, now)
    if changed := [path for path, state in before.files.items() if now.files.get(path) != state]:
        return f"{where}: {len(changed)} files were changed or removed, e.g. {changed[0]}"
    new = [path for path in now.files if path not in before.files]
    if reason := _retyped(table, where, before, now, new):
        return reason
    return Arrivals(added=raw_table(spark, table, where=where, schemas=now.schemas, files=new))


def _retyped(
    table: InputTable, where: str, before: InputPosition, now: InputPosition, new: Sequence[str]
) -> str | None:
    """Why rows taken before may now read differently: a column's type is wider, or another where types are inferred.

    Raises:
        SchemaError: types of the new files do not fit, or are narrower than all before.
    """
    is_text = table.format != "parquet"
    known, present = (merged_columns(place.schemas, where, is_text=is_text) for place in (before, now))
    if table.format == "parquet":
        arrived = of_files(now.schemas, set(new))
        if narrower := narrowed_columns(arrived, before.schemas, known):
            raise SchemaError("\n".join([*(f"  - {where}: {line}" for line in narrower), _NARROWED]))
    for field in known.fields:
        found = present[field.name].dataType
        if found != field.dataType and not isinstance(field.dataType, NullType):
            was, is_now = field.dataType.simpleString(), found.simpleString()
            return f"{where}: column '{field.name}' was {was} and is now {is_now}"
    return None


def _changes(
    spark: SparkSession, table: InputTable, where: str, before: InputPosition, now: InputPosition
) -> Arrivals | str:
    """The change feed of a Delta table, from the version after the last one taken."""
    location = table_location(table, where)
    if now.table_id != before.table_id or now.version < before.version:
        raise UnsafeError(
            f"{where}: the table at {location} is another one than was taken before (its id or history changed); "
            "run full-build if that is meant"
        )
    detail = DeltaTable.forPath(spark, location).detail().first()
    if detail is None or detail["properties"].get("delta.enableChangeDataFeed") != "true":
        return f"{where} has no change feed (set delta.enableChangeDataFeed = true on the table at {location})"
    reader = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", before.version + 1)
    try:
        feed = reader.option("endingVersion", now.version).load(location)
        feed.select(_CHANGE).distinct().collect()  # opens every file of it
    except AnalysisException as error:
        raise ConfigError(f"{where}: the change feed cannot be read: {error}") from None
    except Exception as error:
        if not is_missing_file(error):
            raise
        raise UnsafeError(
            f"{where}: the changes since version {before.version} were vacuumed at {location}; "
            "run refresh with --compare-all, and keep the source's retention longer than the time between runs"
        ) from None
    rows = maps_as_text(with_origin(feed, F.lit(location)))
    kept = rows.where(F.col(_CHANGE).isin("insert", "update_postimage"))
    gone = rows.where(F.col(_CHANGE).isin("delete", "update_preimage"))
    return Arrivals(added=RawTable(kept.drop(*_CHANGE_COLUMNS)), gone=gone.drop(*_CHANGE_COLUMNS))
