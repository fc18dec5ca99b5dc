"""What is new about the raw files themselves: columns that nobody declared, and files that cannot be read."""

import re

from caspr_spark.config import Attribute, Config, InputTable, Lookup, Profile, Source
from caspr_spark.errors import SchemaError
from caspr_spark.events.arrivals import InputPosition, Position, input_tables
from caspr_spark.events.columns import FileSchema, unreadable_files
from caspr_spark.events.sources import wanted_columns


def schema_warnings(config: Config, taken: Position | None, now: Position) -> list[str]:
    """A line for each raw table with new columns or unreadable files since `taken` (None: nothing was taken yet).

    Raises:
        SchemaError: one of them is there and the configuration says `stop`.
    """
    before = {} if taken is None else taken.inputs
    columns, files = [], []
    for where, table in input_tables(config).items():
        place, known = now.inputs[where], before.get(where, InputPosition(kind="unknown"))
        new = {name: file for name, file in _new_columns(place, known).items() if not _is_named(name, table, where)}
        columns += [
            f"{where}: new column '{name}' (e.g. in {file}) is not declared: ignored" for name, file in new.items()
        ]
        changed = {path for path, state in place.files.items() if known.files.get(path) != state}
        is_asked_again = taken is None or taken.declared != now.declared
        files += [
            f"{where}: {path} cannot be read: {error}"
            for path, error in unreadable_files(place.schemas).items()
            if path in changed or is_asked_again
        ]
    stops = columns if config.events.on_new_column == "stop" else []
    stops += files if config.events.on_unreadable_file == "stop" else []
    if stops:
        raise SchemaError(
            "the raw files changed; the tables are as they were:\n"
            + "\n".join(f"  - {line}" for line in stops)
            + "\ndeclare the columns and mend or remove the files, or set events.on_new_column or "
            "events.on_unreadable_file to warn"
        )
    return [f"warning: {line}" for line in columns + files]


def _new_columns(place: InputPosition, known: InputPosition) -> dict[str, str]:
    """Column -> a file that has it, of those that no file taken before has; without any, that not all files have."""
    readable = [schema for schema in place.schemas if not schema.error]
    taken = [schema for schema in known.schemas if not schema.error]
    found = {name: _first_new(schema, known) for schema in reversed(readable) for name in schema.columns.names}
    common = set.union(*_names(taken)) if taken else set.intersection(*_names(readable)) if readable else set()
    return {name: file for name, file in sorted(found.items()) if name not in common}


def _first_new(schema: FileSchema, known: InputPosition) -> str:
    """Of the files that share a schema, one that was not taken before, if there is one: all JSON files share theirs."""
    return next((path for path in schema.files if path not in known.files), schema.files[0])


def _names(schemas: list[FileSchema]) -> list[set[str]]:
    return [set(schema.columns.names) for schema in schemas]


def _is_named(column: str, table: InputTable, where: str) -> bool:
    """True where the declaration of the table uses the column, by its name or in an expression."""
    if isinstance(table, Lookup):
        return column in {*table.on.values(), *table.columns.values()}
    assert isinstance(table, Source | Profile)
    attributes: list[Attribute] = list(table.attributes.values())
    sql = [table.filter, *(attribute.expression for attribute in attributes)]
    names = [name for _, name in wanted_columns(table, where)]
    if isinstance(table, Source):
        sql += [check.rule for check in table.checks.values()]
        names += [ours for lookup in table.lookups.values() for ours in lookup.on]
    return column in names or any(re.search(rf"\b{re.escape(column)}\b", text) for text in sql if text)
