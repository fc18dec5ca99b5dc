"""Raw tables as they are declared: opened in any format, never guessed at, each row with the file it came from."""

import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from caspr_spark.config import InputTable
from caspr_spark.errors import ConfigError

CORRUPT = "corrupt_record"
FILE = "raw_file"
_PACKAGE = "package://"


def raw_rows(spark: SparkSession, table: InputTable, *, where: str, files: Sequence[str] | None = None) -> DataFrame:
    """The table's rows, plus `raw_file` (where a row came from) and `corrupt_record` (its text, if unreadable).

    Text formats come as text: typing is ours, so that a bad value is a rejected row and not a failed job.
    `where` names the table in errors, e.g. sources.purchases. `files`: these of its files only.

    Raises:
        ConfigError: the table is not there or cannot be opened.
    """
    try:
        rows = _opened(spark, table, where, files)
    except AnalysisException as error:
        raise ConfigError(f"{where}: cannot open {table.path or 'the table'}: {first_line(error)}") from None
    return maps_as_text(rows)


def maps_as_text(rows: DataFrame) -> DataFrame:
    """Columns of maps as JSON text, so that rows can be compared."""
    maps = [field.name for field in rows.schema.fields if "map<" in field.dataType.simpleString()]
    return rows.withColumns({name: F.to_json(F.col(quoted(name))) for name in maps})


def table_location(table: InputTable, where: str) -> str:
    """`path` with environment variables filled in and `package://NAME/...` resolved.

    Raises:
        ConfigError: the package or the variable is not there.
    """
    path = _filled(table.path or "", where)
    if not path.startswith(_PACKAGE):
        return path
    package, _, inside = path.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{where}.path: the Python package '{package}' is not installed; pip install it")
    return str(Path(next(iter(spec.submodule_search_locations))) / inside)


def _opened(spark: SparkSession, table: InputTable, where: str, files: Sequence[str] | None) -> DataFrame:
    options: dict[str, Any] = {key: _filled(value, f"{where}.options.{key}") for key, value in table.options.items()}
    location = table_location(table, where)
    paths = [location] if files is None else list(files)
    if table.format == "jdbc":
        return with_origin(spark.read.format("jdbc").options(**options).load(), F.lit(options["dbtable"]))
    if table.format == "table":
        return with_origin(spark.table(location), F.lit(location))
    if table.format == "delta":  # not its files: the same row moves from one to another
        return with_origin(spark.read.format("delta").options(**options).load(location), F.lit(location))
    if table.format == "parquet":
        rows = spark.read.format("parquet").options(**options).load(paths)
        return with_origin(rows, F.col("_metadata.file_path"))
    ours = {"header": "true", "escape": '"'} if table.format == "csv" else {"primitivesAsString": "true"}  # RFC 4180
    options = {**ours, **options}
    columns = spark.read.format(table.format).options(**options).load(paths).schema
    known = [field for field in columns.fields if field.name not in (CORRUPT, "_corrupt_record")]
    schema = StructType([*known, StructField(CORRUPT, StringType())])
    reader = spark.read.format(table.format).options(**options).schema(schema)
    rows = reader.option("mode", "PERMISSIVE").option("columnNameOfCorruptRecord", CORRUPT).load(paths)
    return rows.withColumn(FILE, F.col("_metadata.file_path"))


def with_origin(rows: DataFrame, origin: Any) -> DataFrame:
    """Readable rows, each with the place that it came from."""
    return rows.withColumn(FILE, origin).withColumn(CORRUPT, F.lit(None).cast("string"))


def _filled(text: str, where: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(f"{where}: the environment variable {name} is not set")
        return os.environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)


def missing_columns(rows: DataFrame, wanted: Iterable[tuple[str, str]]) -> list[str]:
    """For each (config key, column) whose column is not in `rows`: a line saying so and what there is."""
    present = [name for name in rows.columns if name not in (CORRUPT, FILE)]
    return [
        f"{key}: column '{column}' is not in the table (it has: {', '.join(present)})"
        for key, column in wanted
        if column not in rows.columns
    ]


def first_line(error: AnalysisException) -> str:
    """What Spark says, without the plan that follows."""
    return str(error).strip().splitlines()[0]


def quoted(name: str) -> str:
    """A column name in back-quotes, so that any name can be used."""
    return "`" + name.replace("`", "``") + "`"
