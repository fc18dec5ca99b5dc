"""What columns raw files have, and how files that were written at different times are read together: widened types are
taken, no others."""

import json
from collections.abc import Collection, Iterable, Sequence

from pydantic import BaseModel, ConfigDict
from pyspark.sql.types import (
    ArrayType,
    ByteType,
    DataType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    NullType,
    ShortType,
    StringType,
    StructField,
    StructType,
)

from caspr_spark.errors import SchemaError

_INTEGERS = (ByteType, ShortType, IntegerType, LongType)
_MAX_PRECISION = 38
_EXACT_AS_DOUBLE = (ByteType, ShortType, IntegerType, FloatType, DoubleType)


class FileSchema(BaseModel):
    """Files that have the same columns, or that cannot be read for the same reason."""

    model_config = ConfigDict(frozen=True)

    files: tuple[str, ...]
    columns_json: str = ""
    error: str = ""
    """Why the files cannot be read; empty where they can."""

    @property
    def columns(self) -> StructType:
        """In the order of a CSV's header. Type void: the file holds only nulls and does not tell the type."""
        return StructType.fromJson(json.loads(self.columns_json)) if self.columns_json else StructType()


def of_files(schemas: Sequence[FileSchema], files: Collection[str]) -> tuple[FileSchema, ...]:
    """The schemas of these files alone."""
    chosen = [(schema, tuple(path for path in schema.files if path in files)) for schema in schemas]
    return tuple(schema.model_copy(update={"files": paths}) for schema, paths in chosen if paths)


def together(schemas: Sequence[FileSchema]) -> tuple[FileSchema, ...]:
    """The same files, those that are alike in one schema."""
    alike: dict[tuple[str, str], list[str]] = {}
    for schema in schemas:
        alike.setdefault((schema.columns_json, schema.error), []).extend(schema.files)
    return tuple(
        FileSchema(files=tuple(files), columns_json=columns, error=error) for (columns, error), files in alike.items()
    )


def unreadable_files(schemas: Sequence[FileSchema]) -> dict[str, str]:
    """File that cannot be read -> why."""
    return {path: schema.error for schema in schemas if schema.error for path in schema.files}


def merged_columns(schemas: Sequence[FileSchema], where: str, *, is_text: bool = False) -> StructType:
    """The columns of all readable files; where types differ, the one that holds them all. Text can always be text.

    Raises:
        SchemaError: two files have types that do not fit, or names that differ only in case; all such columns.
    """
    problems = _other_spellings(schemas)
    fields = []
    for name, found in _types_of_columns(schemas).items():
        merged = _widest(found)
        if merged is None and not is_text:
            types = " and ".join(f"{data_type.simpleString()} in {file}" for data_type, file in found.items())
            problems.append(f"column '{name}' is {types}")
        fields.append(StructField(name, merged or StringType()))
    if problems:
        raise SchemaError(
            "\n".join(f"  - {where}: {line}" for line in problems)
            + "\n  only widened types can be read together; write the files anew with one name and one type"
        )
    return StructType(fields)


def unlike_columns(schemas: Sequence[FileSchema]) -> list[str]:
    """Columns whose types in the readable files do not fit together."""
    return [name for name, found in _types_of_columns(schemas).items() if _widest(found) is None]


def _widest(types: Iterable[DataType]) -> DataType | None:
    widest: DataType | None = NullType()
    for data_type in types:
        widest = None if widest is None else merged_type(widest, data_type)
    return widest


def _other_spellings(schemas: Sequence[FileSchema]) -> list[str]:
    """A line for each column whose name differs only in case from another's; Spark cannot tell the two apart."""
    first: dict[str, tuple[str, str]] = {}  # in small letters -> the name, and a file that has it
    lines = []
    for schema in schemas:
        for name in schema.columns.names:
            known, file = first.setdefault(name.lower(), (name, schema.files[0]))
            if known != name:
                lines.append(f"column '{known}' ({file}) is '{name}' in {schema.files[0]}")
    return lines


def _types_of_columns(schemas: Sequence[FileSchema]) -> dict[str, dict[DataType, str]]:
    """Column -> each of its types, with a file that has it."""
    found: dict[str, dict[DataType, str]] = {}
    for schema in schemas:
        for field in schema.columns.fields:
            found.setdefault(field.name, {}).setdefault(field.dataType, schema.files[0])
    return found


def narrowed_columns(arrived: Sequence[FileSchema], before: Sequence[FileSchema], known: StructType) -> list[str]:
    """A line for each column whose type in files that arrived holds less than the `known` one, as none did before."""
    seen = {(field.name, field.dataType) for schema in before if not schema.error for field in schema.columns.fields}
    return [
        f"column '{field.name}' is {field.dataType.simpleString()} in {schema.files[0]} "
        f"and was {known[field.name].dataType.simpleString()}"
        for schema in arrived
        if not schema.error
        for field in schema.columns.fields
        if field.name in known.names
        and not isinstance(field.dataType, NullType | StructType | ArrayType)
        and (field.name, field.dataType) not in seen
        and merged_type(known[field.name].dataType, field.dataType) == known[field.name].dataType
    ]


def merged_type(one: DataType, other: DataType) -> DataType | None:
    """The type that holds all values of both and that Spark reads both as; None where there is none.

    Fields of structs are ordered by name, so that it does not matter which file came first.
    """
    if isinstance(one, NullType) or one == other:
        return other
    if isinstance(other, NullType):
        return one
    if isinstance(one, StructType) and isinstance(other, StructType):
        return _merged_struct(one, other)
    if isinstance(one, ArrayType) and isinstance(other, ArrayType):
        element = merged_type(one.elementType, other.elementType)
        return None if element is None else ArrayType(element)
    if isinstance(one, _INTEGERS) and isinstance(other, _INTEGERS):
        return max(one, other, key=lambda integer: _INTEGERS.index(type(integer)))
    if isinstance(one, _EXACT_AS_DOUBLE) and isinstance(other, _EXACT_AS_DOUBLE):
        return DoubleType()
    if isinstance(one, DecimalType) and isinstance(other, DecimalType):
        scale = max(one.scale, other.scale)
        precision = max(one.precision - one.scale, other.precision - other.scale) + scale
        return DecimalType(precision, scale) if precision <= _MAX_PRECISION else None
    return None


def _merged_struct(one: StructType, other: StructType) -> StructType | None:
    types = {field.name: field.dataType for field in one.fields}
    for field in other.fields:
        wider = merged_type(types.get(field.name, NullType()), field.dataType)
        if wider is None:
            return None
        types[field.name] = wider
    return StructType([StructField(name, types[name]) for name in sorted(types)])
