"""Where raw tables lie: paths and options as they are declared, and the files that Spark reads there."""

import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrameReader, SparkSession

from caspr_spark.config import InputTable
from caspr_spark.errors import ConfigError

FILE_FORMATS = ("csv", "json", "parquet")
_PACKAGE = "package://"
_DEFAULTS = {
    "csv": {"header": "true", "escape": '"'},  # RFC 4180
    "json": {"primitivesasstring": "true"},
    "parquet": {},
}


def table_location(table: InputTable, where: str) -> str:
    """`path` with environment variables filled in and `package://NAME/...` resolved.

    Raises:
        ConfigError: the package or the variable is not there, or the path leads out of the package.
    """
    path = _filled(table.path or "", where)
    if not path.startswith(_PACKAGE):
        return path
    package, _, inside = path.removeprefix(_PACKAGE).partition("/")
    if ".." in PurePosixPath(inside).parts or PurePosixPath(inside).is_absolute():
        raise ConfigError(f"{where}.path: expected {_PACKAGE}NAME/... inside of the package, found '{path}'")
    return str(_package_folder(package, where) / inside)


def reader_options(table: InputTable, where: str) -> dict[str, str]:
    """The declared options with environment variables filled in; for files, over ours and in small letters."""
    options = {key: _filled(value, f"{where}.options.{key}") for key, value in table.options.items()}
    if table.format not in FILE_FORMATS:
        return options
    return {**_DEFAULTS[table.format], **{key.lower(): value for key, value in options.items()}}


def file_reader(spark: SparkSession, table: InputTable, where: str) -> DataFrameReader:
    """Spark's reader for the table's files; names of folders such as day=2024-01-01 become columns."""
    options = reader_options(table, where)
    location = table_location(table, where).rstrip("/")
    if not re.search(r"[][{}*?]", location) and _is_folder(spark, location):
        options = {"basepath": location, **options}
    return spark.read.format(table.format).options(**options)


def table_files(spark: SparkSession, table: InputTable, where: str) -> dict[str, tuple[int, int]]:
    """Path -> size in bytes, time of last change in milliseconds, of the files that Spark would read."""
    location = table_location(table, where)
    reader = spark.read.format(table.format).options(**reader_options(table, where))
    try:
        wanted = {_without_scheme(uri) for uri in reader.schema("any string").load(location).inputFiles()}
    except AnalysisException:  # no such path; whoever opens the table says so
        return {}
    top_path = spark._jvm.org.apache.hadoop.fs.Path(location)  # type: ignore[union-attr]
    file_system = top_path.getFileSystem(spark._jsc.hadoopConfiguration())
    found = {}
    for top in file_system.globStatus(top_path) or []:
        files = file_system.listFiles(top.getPath(), True)
        while files.hasNext():
            status = files.next()
            if _without_scheme(status.getPath().toUri().toString()) in wanted:
                found[status.getPath().toString()] = (status.getLen(), status.getModificationTime())
    return dict(sorted(found.items()))


def literal(paths: Iterable[str]) -> list[str]:
    """Paths for Spark's reader, which would take brackets and stars in a file's name for a pattern."""
    return [re.sub(r"([][{}*?\\])", r"\\\1", path) for path in paths]


def file_uri(spark: SparkSession, path: str) -> str:
    """A file's path as Spark writes it into a row's metadata."""
    return str(spark._jvm.org.apache.hadoop.fs.Path(path).toUri().toString())  # type: ignore[union-attr]


def _package_folder(package: str, where: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # no name, a relative one, or one below a package that is not there
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{where}.path: the Python package '{package}' is not installed; pip install it")
    return Path(next(iter(spec.submodule_search_locations)))


def _is_folder(spark: SparkSession, location: str) -> bool:
    path = spark._jvm.org.apache.hadoop.fs.Path(location)  # type: ignore[union-attr]
    file_system = path.getFileSystem(spark._jsc.hadoopConfiguration())
    return bool(file_system.exists(path) and file_system.getFileStatus(path).isDirectory())


def _without_scheme(uri: str) -> str:
    return re.sub(r"^[\w.+-]+:/*", "", uri)


def _filled(text: str, where: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(f"{where}: the environment variable {name} is not set")
        return os.environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)
