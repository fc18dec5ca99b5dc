"""Definitions of the two published tables for other systems, written from their contracts: Feast, Databricks, Delta.

Pure functions from a root and names to text; nothing is read or run. Whoever runs the SQL before the first publish gets
empty tables that the publisher fills; for tables that are there already, `existing` registers and describes them.
"""

import json
import re
from pathlib import PurePosixPath

from caspr_spark.errors import ConfigError
from caspr_spark.tables import TABLE_PROPERTIES, table_path
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, PUBLISHED

ENTITY_KEY = CUSTOMER_EMBEDDINGS.key[0]
"""The column by which rows of either table are looked up."""

_MEANINGS = {
    CUSTOMER_EMBEDDING_HISTORY.name: "every published vector of every customer: one row a customer and run",
    CUSTOMER_EMBEDDINGS.name: "the latest vector of every customer by the champion model: one row a customer",
}
_FEAST_TYPES = {
    "array<float>": "Array(Float32)",
    "bigint": "Int64",
    "double": "Float64",
    "int": "Int32",
    "string": "String",
    "timestamp": "UnixTimestamp",
}
_FEAST_FILE = '''\
"""Customer embeddings for Feast, written by `caspr-spark export feast`; the root is where they are published.

Feast reads Delta with `offline_store: {{type: duckdb}}` and the extras feast[duckdb,delta].
"""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import DeltaFormat
from feast.types import {types}

customer = Entity(
    name="customer",
    join_keys=[{entity_key}],
    value_type=ValueType.STRING,
    description={entity_meaning},
)

{name}_source = FileSource(
    name={quoted_name},
    path={path},
    file_format=DeltaFormat(),
    timestamp_field={time_key},
    description={meaning},
)

{name} = FeatureView(
    name={quoted_name},
    entities=[customer],
    ttl=timedelta(0),  # a vector counts until the next one; compare model_version: models do not mix
    schema=[
{fields}
    ],
    source={name}_source,
    online=False,
    description={meaning},
)
'''


def feast_definition(root: str) -> str:
    """The Python file of a Feast repository: the history as a FeatureView for point-in-time lookups.

    Raises:
        ConfigError: `root` is relative.
    """
    contract = CUSTOMER_EMBEDDING_HISTORY
    columns = [column for column in contract.columns if column.name != contract.time_key]
    fields = [
        f"        Field(name={_python(column.name)}, dtype={_FEAST_TYPES[column.type]}, "
        f"description={_python(column.meaning)}),"
        for column in columns
    ]
    types = {name for column in columns for name in re.findall(r"\w+", _FEAST_TYPES[column.type])}
    (entity_meaning,) = (column.meaning for column in columns if column.name == ENTITY_KEY)
    return _FEAST_FILE.format(
        types=", ".join(sorted(types)),
        entity_key=_python(ENTITY_KEY),
        entity_meaning=_python(entity_meaning),
        name=contract.name,
        quoted_name=_python(contract.name),
        path=_python(_location(contract, root)),
        time_key=_python(str(contract.time_key)),
        meaning=_python(_MEANINGS[contract.name]),
        fields="\n".join(fields),
    )


def databricks_sql(root: str, *, schema: str, existing: bool = False) -> str:
    """Both tables for Unity Catalog, in `schema` (`catalog.schema`), with the keys that its feature store goes by.

    Raises:
        ConfigError: `root` is relative, or `schema` is not a name.
    """
    return _sql("databricks", root, schema, existing=existing, keys=True)


def delta_ddl(root: str, *, schema: str, existing: bool = False) -> str:
    """Both tables for Spark with Delta, in `schema` (`schema` or `catalog.schema`).

    Raises:
        ConfigError: `root` is relative, or `schema` is not a name.
    """
    return _sql("ddl", root, schema, existing=existing, keys=False)


def _sql(kind: str, root: str, schema: str, *, existing: bool, keys: bool) -> str:
    when = "for tables that were published already" if existing else "to be run once, before the first publish"
    lines = [f"-- The tables that caspr-spark publishes, written by `caspr-spark export {kind}`; {when}."]
    if keys:
        lines.append("-- Keys are not enforced here. Two models may have vectors of one customer and as_of: filter by")
        lines.append("-- model_version before a point-in-time lookup where more than one model was published.")
    for contract in PUBLISHED:
        name = f"{_schema(schema)}.{_name(contract.name)}"
        location = f"LOCATION {_text(_location(contract, root))}"
        statements = (
            _registered(contract, name, location, keys) if existing else _created(contract, name, location, keys)
        )
        lines += ["", *(f"{statement};" for statement in statements)]
    return "\n".join(lines) + "\n"


def _created(contract: Contract, name: str, location: str, keys: bool) -> list[str]:
    columns = [
        f"{_name(column.name)} {column.type.upper()}{'' if column.nullable else ' NOT NULL'} "
        f"COMMENT {_text(column.meaning)}"
        for column in contract.columns
    ]
    body = ",\n  ".join([*columns, *([_key(contract)] if keys else [])])
    properties = ",\n  ".join(f"{_text(key)} = {_text(value)}" for key, value in TABLE_PROPERTIES.items())
    return [
        f"CREATE TABLE IF NOT EXISTS {name} (\n  {body}\n)\nUSING DELTA\n"
        f"COMMENT {_text(_MEANINGS[contract.name])}\n{location}\nTBLPROPERTIES (\n  {properties}\n)"
    ]


def _registered(contract: Contract, name: str, location: str, keys: bool) -> list[str]:
    """The columns are those that are there; a schema that differs by a comment alone would be refused."""
    described = [f"COMMENT ON TABLE {name} IS {_text(_MEANINGS[contract.name])}"]
    described += [
        f"ALTER TABLE {name} ALTER COLUMN {_name(column.name)} COMMENT {_text(column.meaning)}"
        for column in contract.columns
    ]
    constrained = [f"ALTER TABLE {name} ALTER COLUMN {_name(column)} SET NOT NULL" for column in _key_columns(contract)]
    constrained += [f"ALTER TABLE {name} ADD {_key(contract)}"]
    return [f"CREATE TABLE IF NOT EXISTS {name} USING DELTA {location}", *described, *(constrained if keys else [])]


def _key_columns(contract: Contract) -> list[str]:
    """What a feature store looks rows up by: the entity and, where it has many rows, the time."""
    return [ENTITY_KEY] if contract.time_key is None else [ENTITY_KEY, contract.time_key]


def _key(contract: Contract) -> str:
    columns = [
        _name(column) + (" TIMESERIES" if column == contract.time_key else "") for column in _key_columns(contract)
    ]
    return f"CONSTRAINT {_name(contract.name + '_pk')} PRIMARY KEY ({', '.join(columns)})"


def _location(contract: Contract, root: str) -> str:
    if "://" not in root and not PurePosixPath(root).is_absolute():
        raise ConfigError(f"root: expected an absolute path, which means the same to other systems; found {root!r}")
    return table_path(contract, root)


def _schema(schema: str) -> str:
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)?", schema, flags=re.ASCII):
        raise ConfigError(f"--schema: expected SCHEMA or CATALOG.SCHEMA of letters, digits, _ and -; found {schema!r}")
    return ".".join(_name(part) for part in schema.split("."))


def _name(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _text(text: str) -> str:
    """A SQL literal for Spark and Databricks, which would put a setting in the place of ${name} even inside of it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\u0024{") + "'"


def _python(text: str) -> str:
    """A Python literal: every JSON string is one, as long as its characters are not escaped in halves."""
    return json.dumps(text, ensure_ascii=False)
