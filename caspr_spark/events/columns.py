"""Columns of files that were written at different times, brought together: widened types are taken, no others."""

from collections.abc import Sequence

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
    StructField,
    StructType,
)

from caspr_spark.errors import SchemaError
from caspr_spark.events.file_schemas import FileSchema

_INTEGERS = (ByteType, ShortType, IntegerType, LongType)
_MAX_PRECISION = 38
_EXACT_AS_DOUBLE = (ByteType, ShortType, IntegerType, FloatType, DoubleType)


def merged_columns(schemas: Sequence[FileSchema], where: str) -> StructType:
    """The columns of all readable files; where types differ, the one that holds them all.

    Raises:
        SchemaError: two files have types that do not fit, or names that differ only in case; all such columns.
    """
    merged: dict[str, DataType] = {}
    seen: dict[str, tuple[str, str]] = {}  # in small letters -> the name, and a file that has it
    problems = []
    for schema in schemas:
        if schema.error:
            continue
        for field in schema.columns.fields:
            name, file = seen.setdefault(field.name.lower(), (field.name, schema.files[0]))
            if name != field.name:
                problems.append(f"column '{name}' ({file}) is '{field.name}' in {schema.files[0]}")
                continue
            wider = merged_type(merged.get(name, NullType()), field.dataType)
            if wider is None:
                found, known = field.dataType.simpleString(), merged[name].simpleString()
                problems.append(f"column '{name}' is {found} in {schema.files[0]} and {known} in {file}")
            else:
                merged[name] = wider
    if problems:
        raise SchemaError(
            "\n".join(f"  - {where}: {line}" for line in problems)
            + "\n  only widened types can be read together; write the files anew with one name and one type"
        )
    return StructType([StructField(name, data_type) for name, data_type in merged.items()])


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
