"""Every declared source and profile, opened: filtered, looked up, typed and judged; all mistakes at once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Check, Config, Profile, Source
from caspr_spark.errors import ConfigError, SchemaError
from caspr_spark.events.columns import FileSchema
from caspr_spark.events.file_schemas import CORRUPT
from caspr_spark.events.lookups import with_lookup
from caspr_spark.events.places import file_uri
from caspr_spark.events.raw import RawTable, first_line, missing_columns, quoted, raw_table
from caspr_spark.events.rows import judged_rows, typed_rows, unreadable_rows
from caspr_spark.tombstones import Tombstones, tombstones

Schemas = Mapping[str, Sequence[FileSchema]]  # where a table is declared, e.g. sources.visits -> of its files

_WANTED = "wanted_customer_id"


@dataclass(frozen=True)
class JudgedTable:
    """One raw table with the ending of each of its rows (see `rows.py`)."""

    name: str
    rows: DataFrame
    checks: dict[str, Check]
    rows_outside_filter: int
    rows_erased: int = 0
    """Rows inside the filter that name an erased customer; they are not among `rows`."""


def judged_tables(
    spark: SparkSession,
    config: Config,
    *,
    schemas: Schemas | None = None,
    arrived: Mapping[str, RawTable] | None = None,
    only: Collection[str] | None = None,
    customers: DataFrame | None = None,
) -> dict[str, JudgedTable]:
    """Source or profile name -> its judged rows, in the order of the configuration; without those of erased customers.

    `schemas`: those of the raw files, where they are known (`Position.schemas`).
    `arrived`: raw rows that stand for the whole table; tables without an entry are left out. `only`: these tables.
    `customers`: source, customer_id; only the rows of these. A null customer stands for rows that name nobody.

    Raises:
        ConfigError: tables or expressions that are not there, all of them together, and what follows.
        SchemaError: columns that are not there or do not fit together, in all tables.
    """
    schemas, problems = schemas or {}, []
    judged = {}
    graves = tombstones(spark, config.root)
    for name, table in config.activity_tables.items():
        if (arrived is not None and name not in arrived) or (only is not None and name not in only):
            continue
        try:
            where = table_key(name, table)
            raw = arrived[name] if arrived else raw_table(spark, table, where=where, schemas=schemas.get(where))
            theirs = customers.where(F.col("source") == name) if customers is not None else None
            judged[name] = _judged(spark, name, table, raw, schemas, theirs, graves, config.events.checks)
        except (ConfigError, SchemaError) as error:
            problems.append(error)
    if problems:
        kind = SchemaError if all(isinstance(error, SchemaError) for error in problems) else ConfigError
        raise kind("the tables are not as declared:\n" + "\n".join(map(str, problems)))
    return judged


def table_key(name: str, table: Source | Profile) -> str:
    """Where the configuration declares the table, e.g. sources.visits."""
    return f"{'sources' if isinstance(table, Source) else 'profiles'}.{name}"


def _judged(
    spark: SparkSession,
    name: str,
    table: Source | Profile,
    raw: RawTable,
    schemas: Schemas,
    customers: DataFrame | None,
    graves: Tombstones | None,
    common: dict[str, Check],
) -> JudgedTable:
    where, rows = table_key(name, table), raw.rows
    if customers is not None:
        _demand(raw, [(f"{where}.entity", table.entity)])
        theirs = F.broadcast(customers.select(F.col("customer_id").alias(_WANTED)))  # the raw table may use that name
        is_theirs = rows[quoted(table.entity)].cast("string").eqNullSafe(theirs[_WANTED])
        rows = rows.join(theirs, on=is_theirs, how="left_semi")
    rows, outside = _filtered(rows, table, where)
    num_erased = 0
    if graves is not None:
        _demand(raw._replace(rows=rows), [(f"{where}.entity", table.entity)])
        named = F.col(quoted(table.entity)).cast("string")
        # by a column of the reader's own, so that it parses each row as whole as below
        counted = graves.erased(rows, named).groupBy(F.col(CORRUPT).isNull()).count().collect()
        num_erased, rows = sum(row["count"] for row in counted), graves.living(rows, named)
    time = table.time if isinstance(table, Source) else table.valid_from
    key, checks = ([table.entity, time.column] if time else [table.entity]), common
    if isinstance(table, Source):
        key, checks = table.key, {**common, **table.checks}
        for lookup_name, lookup in table.lookups.items():
            place = f"{where}.lookups.{lookup_name}"
            other = raw_table(spark, lookup, where=place, schemas=schemas.get(place))
            if other.unreadable:
                raise SchemaError(f"  - {place}: files cannot be read: {other.unreadable}")
            _demand(raw._replace(rows=rows), [(f"{place}.on", ours) for ours in lookup.on])
            _demand(other, [(f"{place}.on", column) for column in lookup.on.values()])
            _demand(other, [(f"{place}.columns", column) for column in lookup.columns.values()])
            rows = with_lookup(rows, other.rows, lookup=lookup, where=place)
    _demand(raw._replace(rows=rows), wanted_columns(table, where))
    if time is None:  # a profile that always held has no time to check
        checks = {check: declared for check, declared in checks.items() if "event_time" not in declared.rule}
    typed = typed_rows(rows, where=where, entity=table.entity, time=time, attributes=table.attributes)
    judged = judged_rows(typed, where=where, checks=checks, key=key, attributes=table.attributes)
    if raw.unreadable:
        unreadable = unreadable_rows(judged, {file_uri(spark, path): why for path, why in raw.unreadable.items()})
        judged = judged.unionByName(unreadable if customers is None else _of_nobody(unreadable, customers))
    return JudgedTable(name, judged, checks, outside, num_erased)


def _of_nobody(rows: DataFrame, customers: DataFrame) -> DataFrame:
    """The rows, which name no customer, if such rows are asked for."""
    nobody = F.broadcast(customers.where("customer_id is null").select(F.lit(True).alias("is_asked_for")))
    return rows.join(nobody, on=nobody["is_asked_for"], how="left_semi")


def _filtered(rows: DataFrame, table: Source | Profile, where: str) -> tuple[DataFrame, int]:
    """The rows of the source, and how many are outside of its filter. An unreadable row may belong to any source."""
    if table.filter is None:
        return rows, 0
    inside = F.coalesce(F.expr(table.filter), F.lit(False)) | F.col(CORRUPT).isNotNull()
    try:
        return rows.where(inside), rows.where(~inside).count()
    except AnalysisException as error:
        raise ConfigError(f"  - {where}.filter: {first_line(error)}") from None


def wanted_columns(table: Source | Profile, where: str) -> list[tuple[str, str]]:
    """(Where it is declared, name) of each raw or looked-up column that is declared by its name."""
    wanted = [(f"{where}.entity", table.entity)]
    wanted += [
        (f"{where}.attributes.{name}", attribute.column or name)
        for name, attribute in table.attributes.items()
        if attribute.expression is None and not (attribute.aggregate == "count" and attribute.column is None)
    ]
    if isinstance(table, Source):
        wanted += [(f"{where}.time.column", table.time.column)]
        wanted += [(f"{where}.key", column) for column in table.key]
        wanted += [(f"{where}.group.by", column) for column in (table.group.by if table.group else [])]
    elif table.valid_from is not None:
        wanted += [(f"{where}.valid_from.column", table.valid_from.column)]
    return wanted


def _demand(table: RawTable, wanted: list[tuple[str, str]]) -> None:
    if problems := missing_columns(table, wanted):
        raise SchemaError("\n".join(f"  - {line}" for line in problems))
