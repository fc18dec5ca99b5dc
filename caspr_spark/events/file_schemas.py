"""Which columns each raw file has: a CSV's header, a Parquet file's footer, what JSON lines hold; and which files
cannot be read at all."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict
from pyspark.sql import SparkSession
from pyspark.sql.types import NullType, StructField, StructType

from caspr_spark.config import InputTable
from caspr_spark.errors import CasprError
from caspr_spark.events.places import literal, reader_options

CORRUPT = "corrupt_record"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_HEADER = 1 << 20  # bytes; a longer first line is cut, so that no file is read into the driver
_DECODERS = ("org.apache.parquet.", "org.apache.hadoop.io.compress.", "java.util.zip.", "shaded.parquet.")
_NULLS_ONLY = re.compile(r"^  \w+ \w+ (.+) \(UNKNOWN\)", re.MULTILINE)  # a field of a Parquet footer


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
        return StructType.fromJson(json.loads(self.columns_json))


def file_schemas(spark: SparkSession, table: InputTable, where: str, files: Sequence[str]) -> tuple[FileSchema, ...]:
    """What columns these files of the table have; files whose columns are alike stand together.

    Raises:
        CasprError: a file cannot be opened, for another reason than its content.
    """
    if not files:
        return ()
    if table.format == "parquet":
        heads, unreadable = _heads(files, lambda path: _footer(spark, path), where)
    elif table.format == "csv":
        files, broken = _decompressible(spark, files, where)
        first_line = _first_line_reader(spark, reader_options(table, where))
        heads, unreadable = _heads(files, first_line, where)
        unreadable |= broken
    else:
        files, unreadable = _decompressible(spark, files, where)
        heads = {"": list(files)} if files else {}
    found: dict[str, list[str]] = {}
    for head, alike in heads.items():
        found.setdefault(_columns(spark, table, where, head, alike).json(), []).extend(alike)
    readable = [FileSchema(files=tuple(alike), columns_json=columns) for columns, alike in found.items()]
    return (*readable, *(FileSchema(files=(path,), error=error) for path, error in sorted(unreadable.items())))


def of_files(schemas: Sequence[FileSchema], files: Collection[str]) -> tuple[FileSchema, ...]:
    """The schemas of these files alone."""
    chosen = [(schema, tuple(path for path in schema.files if path in files)) for schema in schemas]
    return tuple(schema.model_copy(update={"files": paths}) for schema, paths in chosen if paths)


def unreadable_files(schemas: Sequence[FileSchema]) -> dict[str, str]:
    """File that cannot be read -> why."""
    return {path: schema.error for schema in schemas if schema.error for path in schema.files}


def _columns(spark: SparkSession, table: InputTable, where: str, head: Any, files: list[str]) -> StructType:
    """The columns that Spark finds in files of one head. A CSV's columns are text unless the options say otherwise."""
    options = reader_options(table, where)
    is_in_head = table.format != "json" and options.get("inferschema", "false").lower() != "true"
    reader = spark.read.format(table.format).options(**options)
    fields = reader.load(literal(files[:1] if is_in_head else files)).schema.fields
    nulls_only = set(_NULLS_ONLY.findall(head)) if table.format == "parquet" else set()
    return StructType(
        [
            StructField(field.name, NullType() if field.name in nulls_only else field.dataType)
            for field in fields
            if field.name not in (CORRUPT, "_corrupt_record")
        ]
    )


def _heads(
    files: Sequence[str], head_of: Callable[[str], Any], where: str
) -> tuple[dict[Any, list[str]], dict[str, str]]:
    """Head -> its files, and unreadable file -> why."""
    heads: dict[Any, list[str]] = {}
    unreadable: dict[str, str] = {}
    for path in files:
        try:
            head = head_of(path)
        except Py4JJavaError as error:
            unreadable[path] = _damage(error, path, where)
            continue
        if head is None:
            unreadable[path] = "the file is empty"
        else:
            heads.setdefault(head, []).append(path)
    return heads, unreadable


def _first_line_reader(spark: SparkSession, options: Mapping[str, str]) -> Callable[[str], Any]:
    """A function that gives what tells the columns of a CSV file: its header as it is written, or their number.

    It passes over empty lines and comments, as Spark does; None for a file without any line.
    """
    hadoop, configuration = spark._jvm.org.apache.hadoop, spark._jsc.hadoopConfiguration()  # type: ignore[union-attr]
    codecs = hadoop.io.compress.CompressionCodecFactory(configuration)
    comment = options.get("comment", "").encode()
    separator = options.get("sep", options.get("delimiter", ",")).encode()
    has_header = options["header"].lower() == "true"

    def first_line(path: str) -> bytes | int | None:
        place, text = hadoop.fs.Path(path), hadoop.io.Text()
        codec = codecs.getCodec(place)
        stream = place.getFileSystem(configuration).open(place)
        try:
            lines = hadoop.util.LineReader(stream if codec is None else codec.createInputStream(stream))
            while lines.readLine(text, _MAX_HEADER, _MAX_HEADER) > 0:
                line = bytes(text.copyBytes()).removeprefix(_BYTE_ORDER_MARK)
                if line.strip() and not (comment and line.startswith(comment)):
                    return line if has_header else line.count(separator)
        finally:
            stream.close()
        return None

    return first_line


def _footer(spark: SparkSession, path: str) -> str:
    """The columns in a Parquet file's footer, and what Spark noted there of them."""
    parquet = spark._jvm.org.apache.parquet  # type: ignore[union-attr]
    place = spark._jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
    no_row_groups = parquet.format.converter.ParquetMetadataConverter.SKIP_ROW_GROUPS
    footer = parquet.hadoop.ParquetFileReader.readFooter(spark._jsc.hadoopConfiguration(), place, no_row_groups)
    notes = footer.getFileMetaData().getKeyValueMetaData().get("org.apache.spark.sql.parquet.row.metadata")
    return f"{footer.getFileMetaData().getSchema().toString()}{notes or ''}"


def _decompressible(spark: SparkSession, files: Sequence[str], where: str) -> tuple[list[str], dict[str, str]]:
    """Text files that can be read to their end, and the others with the reason. Compressed ones are read once for it:
    they bear no sign at their start that the end is missing, and a job that meets such a file fails."""
    codecs = spark._jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(spark._jsc.hadoopConfiguration())  # type: ignore[union-attr]
    to_path = spark._jvm.org.apache.hadoop.fs.Path  # type: ignore[union-attr]
    compressed = [path for path in files if codecs.getCodec(to_path(path)) is not None]
    broken = _broken(spark, compressed, where) if compressed else {}
    return [path for path in files if path not in broken], broken


def _broken(spark: SparkSession, files: list[str], where: str) -> dict[str, str]:
    try:
        spark.read.text(literal(files)).count()
    except Py4JJavaError as error:
        if len(files) == 1:
            return {files[0]: _damage(error, files[0], where)}
        middle = len(files) // 2
        return _broken(spark, files[:middle], where) | _broken(spark, files[middle:], where)
    return {}


def _damage(error: Py4JJavaError, path: str, where: str) -> str:
    """What a decoder says of the file's content.

    Raises:
        CasprError: it was no decoder that failed: access denied, a network that is down.
    """
    cause = error.java_exception
    while cause.getCause() is not None:
        cause = cause.getCause()
    text = str(cause.getMessage() or cause.toString()).splitlines()[0]
    frames = cause.getStackTrace()
    if not (len(frames) and frames[0].getClassName().startswith(_DECODERS)):
        raise CasprError(f"{where}: {path} cannot be opened: {text}") from None
    return text
