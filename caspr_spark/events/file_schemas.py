"""Which columns each raw file has: a CSV's header, a Parquet file's footer, what JSON lines hold; and which files
cannot be read at all."""

from collections.abc import Callable, Sequence
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, NullType, StructField, StructType

from caspr_spark.config import InputTable
from caspr_spark.errors import CasprError
from caspr_spark.events.columns import FileSchema, merged_type, together, unlike_columns
from caspr_spark.events.places import literal, reader_options

CORRUPT = "corrupt_record"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_HEADER = 1 << 20  # bytes; a longer first line is cut, so that no file is read into the driver
_DECODERS = ("org.apache.parquet.", "org.apache.hadoop.io.compress.", "java.util.zip.", "shaded.parquet.")


def file_schemas(
    spark: SparkSession, table: InputTable, where: str, files: Sequence[str], known: Sequence[FileSchema] = ()
) -> tuple[FileSchema, ...]:
    """What columns these files of the table have; files whose columns are alike stand together.

    `known`: of some of these files, read earlier under the same declaration. The files beside them are looked at.

    Raises:
        CasprError: a file cannot be opened, for another reason than its content.
    """
    seen = {path for schema in known for path in schema.files}
    new = [path for path in files if path not in seen]
    if not new:
        return tuple(known)
    if table.format == "csv" and not has_schema_in_file(table, where):
        known, new = (), list(files)
    broken = {} if table.format == "parquet" else _broken(spark, _compressed(spark, new), where)
    unreadable = [FileSchema(files=(path,), error=error) for path, error in broken.items()]
    new = [path for path in new if path not in broken]
    if table.format == "json":
        return (*_json_schemas(spark, table, where, new, known), *unreadable)
    head_of = _footer_reader(spark) if table.format == "parquet" else _first_line_reader(spark, table, where)
    heads, damaged = _heads(new, head_of, where)
    unreadable += [FileSchema(files=(path,), error=error) for path, error in damaged.items()]
    found = [
        FileSchema(files=tuple(alike), columns_json=_columns(spark, table, where, alike).json())
        for alike in heads.values()
    ]
    all_found = together([*known, *found, *unreadable])
    return _with_void(spark, all_found) if table.format == "parquet" else all_found


def has_schema_in_file(table: InputTable, where: str) -> bool:
    """True where a file's head tells its columns; otherwise they are inferred from the rows of all files together."""
    is_asked_for = reader_options(table, where).get("inferschema", "false").lower() == "true"
    return table.format == "parquet" or (table.format == "csv" and not is_asked_for)


def _json_schemas(
    spark: SparkSession, table: InputTable, where: str, new: list[str], known: Sequence[FileSchema]
) -> tuple[FileSchema, ...]:
    """One schema of all JSON files. Where what is new would change a known column's type, all are looked at again, so
    that the types are those that a look at all files at once gives."""
    readable = [path for schema in known if not schema.error for path in schema.files]
    kept = [schema for schema in known if schema.error]
    before = next((schema.columns for schema in known if not schema.error), StructType())
    columns: DataType | None = before
    if new:
        ours = {"dropfieldifallnull": "true"} if before.fields else {}  # nulls alone would be taken for text
        columns = merged_type(before, _columns(spark, table, where, new, **ours))
        if before.fields and _types(columns, before) != _types(before, before):
            columns = _columns(spark, table, where, [*readable, *new])
    if not readable and not new:
        return tuple(kept)
    assert isinstance(columns, StructType)
    return (FileSchema(files=(*readable, *new), columns_json=columns.json()), *kept)


def _types(columns: DataType | None, like: StructType) -> dict[str, DataType]:
    """Type of each column that `like` has; empty where there are no columns."""
    fields = columns.fields if isinstance(columns, StructType) else []
    return {field.name: field.dataType for field in fields if field.name in like.names}


def _columns(spark: SparkSession, table: InputTable, where: str, files: list[str], **ours: str) -> StructType:
    """The columns that Spark finds in files of one head. A CSV's columns are text unless the options say otherwise."""
    reader = spark.read.format(table.format).options(**reader_options(table, where), **ours)
    looked_at = files[:1] if has_schema_in_file(table, where) else files
    fields = reader.load(literal(looked_at)).schema.fields
    return StructType(
        [StructField(field.name, field.dataType) for field in fields if field.name not in (CORRUPT, "_corrupt_record")]
    )


def _with_void(spark: SparkSession, schemas: tuple[FileSchema, ...]) -> tuple[FileSchema, ...]:
    """The schemas of Parquet files, where types that do not fit with the others' are void if the column has no value.

    Writers that see only nulls, or empty lists, choose some type: pandas an integer.
    """
    unlike = unlike_columns(schemas)
    return together([_with_void_columns(spark, schema, unlike) for schema in schemas]) if unlike else schemas


def _with_void_columns(spark: SparkSession, schema: FileSchema, names: list[str]) -> FileSchema:
    fields = []
    for field in schema.columns.fields:
        if field.name in names:
            column = F.col("`" + field.name.replace("`", "``") + "`")
            is_list = isinstance(field.dataType, ArrayType)
            has_value = F.exists(column, lambda item: item.isNotNull()) if is_list else column.isNotNull()
            if spark.read.parquet(*literal(schema.files)).where(has_value).isEmpty():
                field = StructField(field.name, NullType())
        fields.append(field)
    return schema.model_copy(update={"columns_json": StructType(fields).json()}) if fields else schema


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


def _first_line_reader(spark: SparkSession, table: InputTable, where: str) -> Callable[[str], Any]:
    """A function that gives what tells the columns of a CSV file: its header as it is written, or their number.

    It passes over empty lines and comments, as Spark does; None for a file without any line.
    """
    hadoop, configuration = spark._jvm.org.apache.hadoop, spark._jsc.hadoopConfiguration()  # type: ignore[union-attr]
    codecs = hadoop.io.compress.CompressionCodecFactory(configuration)
    options = reader_options(table, where)
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


def _footer_reader(spark: SparkSession) -> Callable[[str], Any]:
    """A function that gives the columns in a Parquet file's footer, and what Spark noted there of them."""
    parquet = spark._jvm.org.apache.parquet  # type: ignore[union-attr]
    to_path, configuration = spark._jvm.org.apache.hadoop.fs.Path, spark._jsc.hadoopConfiguration()  # type: ignore[union-attr]
    no_row_groups = parquet.format.converter.ParquetMetadataConverter.SKIP_ROW_GROUPS

    def footer(path: str) -> str:
        found = parquet.hadoop.ParquetFileReader.readFooter(
            configuration, to_path(path), no_row_groups
        ).getFileMetaData()
        notes = found.getKeyValueMetaData().get("org.apache.spark.sql.parquet.row.metadata")
        return f"{found.getSchema().toString()}{notes or ''}"

    return footer


def _compressed(spark: SparkSession, files: Sequence[str]) -> list[str]:
    hadoop = spark._jvm.org.apache.hadoop  # type: ignore[union-attr]
    codecs = hadoop.io.compress.CompressionCodecFactory(spark._jsc.hadoopConfiguration())
    return [path for path in files if codecs.getCodec(hadoop.fs.Path(path)) is not None]


def _broken(spark: SparkSession, compressed: list[str], where: str) -> dict[str, str]:
    """Compressed text files that cannot be read to their end -> why.

    They are read once for it: nothing at their start says that the end is missing, and a job that meets it fails.
    """
    if not compressed:
        return {}
    try:
        spark.read.text(literal(compressed)).count()
    except Py4JJavaError as error:
        if len(compressed) == 1:
            return {compressed[0]: _damage(error, compressed[0], where)}
        middle = len(compressed) // 2
        return _broken(spark, compressed[:middle], where) | _broken(spark, compressed[middle:], where)
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
