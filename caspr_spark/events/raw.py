"""Raw tables as they are declared: opened in any format, never guessed at, each row with the file it came from."""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any, NamedTuple

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import NullType, StringType, StructField, StructType

from caspr_spark.config import InputTable
from caspr_spark.errors import CasprError, ConfigError, SchemaError
from caspr_spark.events.columns import FileSchema, merged_columns, of_files, unreadable_files
from caspr_spark.events.file_schemas import CORRUPT, file_schemas
from caspr_spark.events.places import FILE_FORMATS, file_reader, literal, reader_options, table_files, table_location

FILE = "raw_file"


class RawTable(NamedTuple):
    """A raw table's rows, and what columns the files have that they come from; none where a table is no files.

    `file_columns`: those that any file of the table has; names of folders may give others.
    """

    rows: DataFrame
    schemas: tuple[FileSchema, ...] = ()
    file_columns: frozenset[str] = frozenset()

    @property
    def unreadable(self) -> dict[str, str]:
        """File that cannot be read -> why."""
        return unreadable_files(self.schemas)


def raw_table(
    spark: SparkSession,
    table: InputTable,
    *,
    where: str,
    schemas: Sequence[FileSchema] | None = None,
    files: Sequence[str] | None = None,
) -> RawTable:
    """The table's rows, plus `raw_file` (where a row came from) and `corrupt_record` (its text, if unreadable).

    Text formats come as text: typing is ours, so that a bad value is a rejected row and not a failed job. A file's
    columns are found by their names, and a column that it lacks is null. `where` names the table in errors, e.g.
    sources.purchases. `schemas`: those of all files of the table; None: they are read. `files`: rows of these only.

    Raises:
        ConfigError: the table is not there or cannot be opened.
        SchemaError: its files do not fit together, or none can be read.
    """
    try:
        if table.format in FILE_FORMATS:
            if schemas is None:
                schemas = file_schemas(spark, table, where, list(table_files(spark, table, where)))
            opened = _files_opened(spark, table, where, schemas, files)
        else:
            opened = RawTable(_opened(spark, table, where))
    except AnalysisException as error:
        raise cannot_open(error, table, where) from None
    return opened._replace(rows=maps_as_text(opened.rows))


def cannot_open(error: AnalysisException, table: InputTable, where: str) -> CasprError:
    """What to tell the user of Spark's refusal."""
    kind = SchemaError if error.getCondition() == "COLUMN_ALREADY_EXISTS" else ConfigError  # names differ only in case
    return kind(f"{where}: cannot open {table.path or 'the table'}: {first_line(error)}")


def maps_as_text(rows: DataFrame) -> DataFrame:
    """Columns of maps as JSON text, so that rows can be compared."""
    maps = [field.name for field in rows.schema.fields if "map<" in field.dataType.simpleString()]
    return rows.withColumns({name: F.to_json(F.col(quoted(name))) for name in maps})


def _opened(spark: SparkSession, table: InputTable, where: str) -> DataFrame:
    options = reader_options(table, where)
    if table.format == "jdbc":
        return with_origin(spark.read.format("jdbc").options(**options).load(), F.lit(options["dbtable"]))
    location = table_location(table, where)
    if table.format == "table":
        return with_origin(spark.table(location), F.lit(location))
    # of Delta not the files: the same row moves from one to another
    return with_origin(spark.read.format("delta").options(**options).load(location), F.lit(location))


def _files_opened(
    spark: SparkSession, table: InputTable, where: str, schemas: Sequence[FileSchema], files: Sequence[str] | None
) -> RawTable:
    if not schemas:  # Spark says what is wrong with the place
        file_reader(spark, table, where).load(table_location(table, where))
    columns = merged_columns(schemas, where, is_text=table.format == "csv")
    readable = [schema for schema in schemas if not schema.error]
    if not readable:
        raise SchemaError(f"  - {where}: no file at {table.path} can be read: {unreadable_files(schemas)}")
    asked = schemas if files is None else of_files(schemas, set(files))
    parts = [
        _part(spark, table, where, paths, own, columns)
        for own, paths in _read_together(table, [schema for schema in asked if not schema.error])
    ]
    if not parts:  # only files that cannot be read were asked for: no rows, in the columns of the others
        own, paths = _read_together(table, readable)[0]
        parts = [_part(spark, table, where, paths, own, columns).limit(0)]
    rows = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)
    return RawTable(rows, tuple(asked), frozenset(columns.names))


def _read_together(table: InputTable, schemas: Sequence[FileSchema]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Columns to read and the files to read them from at once.

    A CSV's columns are told by their place. In the others each is found by its name, but Spark cannot read a Parquet
    column that has only nulls under the type that it has elsewhere.
    """
    together: dict[tuple[str, ...], list[str]] = {}
    names = tuple(dict.fromkeys(name for schema in schemas for name in schema.columns.names))
    for schema in schemas:
        nulls_only = {field.name for field in schema.columns.fields if isinstance(field.dataType, NullType)}
        own = tuple(schema.columns.names) if table.format == "csv" else names
        together.setdefault(tuple(name for name in own if name not in nulls_only), []).extend(schema.files)
    return list(together.items())


def _part(
    spark: SparkSession,
    table: InputTable,
    where: str,
    paths: Sequence[str],
    own: Sequence[str],
    columns: StructType,
) -> DataFrame:
    """The rows of these files, whose `own` columns are read under the types of all files; the others are null."""
    types = {
        field.name: StringType() if isinstance(field.dataType, NullType) else field.dataType for field in columns.fields
    }
    fields = [StructField(name, types[name]) for name in own]
    reader = file_reader(spark, table, where)
    if table.format == "parquet":
        rows = with_origin(reader.schema(StructType(fields)).load(literal(paths)), F.col("_metadata.file_path"))
    else:
        reader = reader.schema(StructType([*fields, StructField(CORRUPT, StringType())]))
        reader = reader.option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", CORRUPT)
        rows = reader.load(literal(paths)).withColumn(FILE, F.col("_metadata.file_path"))
    return rows.withColumns({name: F.lit(None).cast(data_type) for name, data_type in types.items() if name not in own})


def with_origin(rows: DataFrame, origin: Any) -> DataFrame:
    """Readable rows, each with the place that it came from."""
    return rows.withColumn(FILE, origin).withColumn(CORRUPT, F.lit(None).cast("string"))


def missing_columns(table: RawTable, wanted: Iterable[tuple[str, str]]) -> list[str]:
    """For each (config key, column) whose column is not in all files of the table: a line that says so."""
    present = [name for name in table.rows.columns if name not in (CORRUPT, FILE)]
    readable = [schema for schema in table.schemas if not schema.error]
    lines = []
    for key, column in wanted:
        lacking = [schema for schema in readable if column not in schema.columns.names]
        if column not in present:
            lines.append(f"{key}: column '{column}' is not in the table (it has: {', '.join(present)})")
        elif column in table.file_columns and lacking:
            number, example = sum(len(schema.files) for schema in lacking), lacking[0]
            lines.append(
                f"{key}: column '{column}' is not in {number:,} of the files, e.g. {example.files[0]} "
                f"(it has: {', '.join(example.columns.names)}); where files may lack it, give an 'expression' of it"
            )
    return lines


def first_line(error: AnalysisException) -> str:
    """What Spark says, without the plan that follows."""
    return str(error).strip().splitlines()[0]


def quoted(name: str) -> str:
    """A column name in back-quotes, so that any name can be used."""
    return "`" + name.replace("`", "``") + "`"
