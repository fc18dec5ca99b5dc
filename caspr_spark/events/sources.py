"""Every declared source and profile, opened: filtered, looked up, typed and judged; all mistakes at once."""

from dataclasses import dataclass

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Check, Config, InputTable, Profile, Source
from caspr_spark.errors import ConfigError
from caspr_spark.events.lookups import with_lookup
from caspr_spark.events.raw import CORRUPT, first_line, missing_columns, raw_rows, source_identity
from caspr_spark.events.rows import judged_rows, typed_rows
from caspr_spark.lineage import fingerprint


@dataclass(frozen=True)
class JudgedTable:
    """One raw table with the ending of each of its rows (see `rows.py`)."""

    name: str
    rows: DataFrame
    checks: dict[str, Check]
    rows_outside_filter: int


def judged_tables(spark: SparkSession, config: Config) -> dict[str, JudgedTable]:
    """Source or profile name -> its judged rows, in the order of the configuration.

    Raises:
        ConfigError: tables, columns or expressions that are not there, all of them together.
    """
    problems: list[str] = []
    judged = {}
    tables: dict[str, Source | Profile] = {**config.sources, **config.profiles}
    for name, table in tables.items():
        try:
            judged[name] = _judged(spark, name, table, config.events.checks)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("the tables are not as declared:\n" + "\n".join(problems))
    return judged


def inputs_fingerprint(spark: SparkSession, config: Config, *, version: str) -> str | None:
    """Equal while the raw tables, their declaration and the program's `version` are; None where that cannot be told."""
    tables: dict[str, InputTable] = {f"sources.{name}": source for name, source in config.sources.items()}
    tables |= {f"profiles.{name}": profile for name, profile in config.profiles.items()}
    for name, source in config.sources.items():
        tables |= {f"sources.{name}.lookups.{lookup}": table for lookup, table in source.lookups.items()}
    identities = [source_identity(spark, table, where=where) for where, table in tables.items()]
    if None in identities:
        return None
    declared = config.model_dump(include={"sources", "profiles", "events"})
    return fingerprint(declared=declared, identities=identities, version=version)


def _judged(spark: SparkSession, name: str, table: Source | Profile, common: dict[str, Check]) -> JudgedTable:
    is_source = isinstance(table, Source)
    where = f"{'sources' if is_source else 'profiles'}.{name}"
    everything = raw_rows(spark, table, where=where)
    rows = _filtered(everything, table, where)
    time = table.time if isinstance(table, Source) else table.valid_from
    key, checks = ([table.entity, time.column] if time else [table.entity]), common
    if isinstance(table, Source):
        key, checks = table.key, {**common, **table.checks}
        for lookup_name, lookup in table.lookups.items():
            place = f"{where}.lookups.{lookup_name}"
            other = raw_rows(spark, lookup, where=place)
            _demand(rows, [(f"{place}.on", ours) for ours in lookup.on])
            _demand(other, [(f"{place}.on", column) for column in lookup.on.values()])
            _demand(other, [(f"{place}.columns", column) for column in lookup.columns.values()])
            rows = with_lookup(rows, other, lookup=lookup, where=place)
    _demand(rows, _wanted(table, where))
    if time is None:  # a profile that always held has no time to check
        checks = {check: declared for check, declared in checks.items() if "event_time" not in declared.rule}
    typed = typed_rows(rows, where=where, entity=table.entity, time=time, attributes=table.attributes)
    judged = judged_rows(typed, where=where, checks=checks, key=key, attributes=table.attributes)
    outside = 0 if table.filter is None else everything.count() - rows.count()
    return JudgedTable(name, judged, checks, outside)


def _filtered(rows: DataFrame, table: Source | Profile, where: str) -> DataFrame:
    if table.filter is None:
        return rows
    try:
        return rows.where(F.expr(table.filter) | F.col(CORRUPT).isNotNull())
    except AnalysisException as error:
        raise ConfigError(f"  - {where}.filter: {first_line(error)}") from None


def _wanted(table: Source | Profile, where: str) -> list[tuple[str, str]]:
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


def _demand(rows: DataFrame, wanted: list[tuple[str, str]]) -> None:
    if problems := missing_columns(rows, wanted):
        raise ConfigError("\n".join(f"  - {line}" for line in problems))
