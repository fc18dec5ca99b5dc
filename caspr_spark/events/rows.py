"""Raw rows read as activities: customer, time and attributes typed, and each row's ending decided.

A row ends as taken, duplicate, or rejected by the first check that it breaks; `ending` is null, "duplicate" or the
check's name. A file that cannot be read counts as one row, "unreadable_file".
"""

from collections.abc import Iterable, Mapping
from functools import reduce

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BooleanType, DataType, NumericType, StringType, TimestampType

from caspr_spark.config import Attribute, Check, Time
from caspr_spark.errors import ConfigError
from caspr_spark.events.file_schemas import CORRUPT
from caspr_spark.events.raw import FILE, first_line, quoted
from caspr_spark.session import local_frame

DUPLICATE = "duplicate"
UNREADABLE_FILE = "unreadable_file"
RAW = "raw_row"
_DATED = r"^\d{4}-"  # Spark reads a bare time of day as one of today
_ZONED = r":\d{2}.*([A-Za-z]|[+-]\d{1,2}(:?\d{2})?)$"  # Z, an offset, or a name such as Europe/Berlin
_AS_JSON = {"timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX", "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"}
_EPOCH_UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}


def typed_rows(
    raw: DataFrame, *, where: str, entity: str, time: Time | None, attributes: Mapping[str, Attribute]
) -> DataFrame:
    """Raw rows with customer_id, event_time, one typed column an attribute and `num_unreadable_numbers` beside them.

    The raw row itself is kept in the struct `raw_row`, its columns ordered by name: its hash and its JSON pass over
    nulls, so that neither depends on the other files that were read. Raw columns of the same name as a typed one give
    way to it.

    Raises:
        ConfigError: an expression does not fit the table.
    """
    raw_columns = sorted(name for name in raw.columns if name not in (CORRUPT, FILE))
    problems: list[str] = []
    values: dict[str, Column] = {}
    unreadable = F.lit(0)
    for name, attribute in attributes.items():
        source_value = _source_value(raw, name, attribute)
        try:
            data_type = raw.select(source_value).schema[0].dataType
            values[name] = _typed(source_value, data_type, attribute)
            raw.select(values[name])
        except AnalysisException as error:
            hint = (
                "; columns of csv and json are text: write try_cast(COLUMN as double)" if attribute.expression else ""
            )
            problems.append(f"{where}.attributes.{name}: {first_line(error)}{hint}")
            continue
        if attribute.kind == "numerical" and attribute.aggregate != "count":
            number = _number(source_value, data_type)
            written = source_value.isNotNull() & (F.trim(source_value.cast("string")) != "")
            unusable = number.isNull() | F.isnan(number) | (F.abs(number) == F.lit(float("inf")))
            unreadable = unreadable + F.when(written & unusable, 1).otherwise(0)
    if problems:
        raise ConfigError("the attributes do not fit the tables:\n" + "\n".join(f"  - {line}" for line in problems))
    event_time = F.lit("1970-01-01").cast("timestamp") if time is None else utc_time(raw, time)
    try:
        raw.select(event_time)
    except AnalysisException as error:
        raise ConfigError(f"  - {where}: the time cannot be read: {first_line(error)}") from None
    typed = {
        "customer_id": F.col(quoted(entity)).cast("string"),
        "event_time": event_time,
        **values,
        "num_unreadable_numbers": unreadable,
    }
    taken = {name.lower() for name in typed}  # Spark does not tell columns apart by case
    return raw.select(
        F.struct(*[F.col(quoted(name)) for name in raw_columns]).alias(RAW),
        *[F.col(quoted(name)) for name in raw.columns if name.lower() not in taken],
        *[value.alias(name) for name, value in typed.items()],
    )


def utc_time(raw: DataFrame, time: Time) -> Column:
    """The declared time as a UTC timestamp; null where it is missing, unreadable, or without any zone."""
    column, data_type = F.col(quoted(time.column)), raw.schema[time.column].dataType
    unit = time.unit
    if unit == "timestamp" and isinstance(data_type, NumericType):
        # how Spark hands over a Parquet timestamp in nanoseconds, which bears no zone
        return _in_zone(F.timestamp_micros(F.floor(column.cast("bigint") / 1000)), time.zone)
    if unit != "timestamp":
        number = F.expr(f"try_cast({quoted(time.column)} as decimal(38, 9))")
        per_second = 1_000_000_000 if unit == "ns" else 1_000_000 // _EPOCH_UNITS[unit]
        plausible = F.abs(number) < 1e11 * per_second  # farther away, the multiplication would overflow
        near = F.when(plausible, number)
        micros = F.floor(near / 1000) if unit == "ns" else F.floor(near * _EPOCH_UNITS[unit])
        return F.timestamp_micros(micros.cast("bigint"))
    if isinstance(data_type, TimestampType):
        return column
    if not isinstance(data_type, StringType):  # a date or a timestamp without zone
        return _in_zone(column.cast("timestamp"), time.zone)
    text = F.trim(column)
    if time.format is not None:
        parsed = F.try_to_timestamp(text, F.lit(time.format))
        bears_zone = any(letter in time.format for letter in "XxZzOV")
        return parsed if bears_zone else _in_zone(parsed, time.zone)
    absolute = F.expr(f"try_cast(trim({quoted(time.column)}) as timestamp)")
    return F.when(text.rlike(_DATED), F.when(text.rlike(_ZONED), absolute).otherwise(_in_zone(absolute, time.zone)))


def judged_rows(
    typed: DataFrame, *, where: str, checks: Mapping[str, Check], key: list[str], attributes: Iterable[str]
) -> DataFrame:
    """Typed rows plus `met_<check>` (boolean) for each check and `ending` (null: taken), without the raw columns.

    Of a customer's rows with the same key the one with the newest time is taken, then the one with the smallest content
    hash, then the one of the first file by name. A row with a null in its key is the same as another only if all of it
    is. Rows of two customers are never duplicates, so that a row's ending depends on those of its own customer alone.
    """
    met: dict[str, Column] = {}
    for name, check in checks.items():
        try:
            typed.select(F.expr(check.rule))
        except AnalysisException as error:
            raise ConfigError(f"{where}.checks.{name}.rule: {first_line(error)}") from None
        met[name] = F.coalesce(F.expr(check.rule), F.lit(True))
    flags = [value.alias(f"met_{name}") for name, value in met.items()]
    judged = typed.select(RAW, FILE, CORRUPT, "customer_id", "event_time", *attributes, *flags)
    reasons = [F.when(~F.col(f"met_{name}"), F.lit(name)) for name in checks]
    reason = F.coalesce(*reasons) if reasons else F.lit(None).cast("string")
    identity = [*key_columns(key), F.when(lacks_key(key), F.md5(row_as_json()))]
    newest_first = Window.partitionBy(reason.isNull(), "customer_id", *identity).orderBy(
        F.desc("event_time"), F.xxhash64(F.col(RAW)), FILE
    )
    repeated = reason.isNull() & (F.row_number().over(newest_first) > 1)
    return judged.withColumn("ending", F.when(repeated, DUPLICATE).otherwise(reason))


def unreadable_rows(judged: DataFrame, files: Mapping[str, str]) -> DataFrame:
    """A row for each file that cannot be read (-> why), rejected, in the columns of `judged`; it names no customer."""
    known = {"ending": F.lit(UNREADABLE_FILE), FILE: F.col(FILE), CORRUPT: F.col(CORRUPT)}
    known |= {f.name: F.lit(True) for f in judged.schema.fields if isinstance(f.dataType, BooleanType)}  # met_<check>
    rows = local_frame(judged.sparkSession, sorted(files.items()), f"{FILE} string, {CORRUPT} string")
    return rows.select(*[known.get(f.name, F.lit(None)).cast(f.dataType).alias(f.name) for f in judged.schema.fields])


def rejected_rows(judged: DataFrame, *, source: str) -> DataFrame:
    """Judged rows -> REJECTED: the rows that were not taken, with the reason and the row's content."""
    content = F.coalesce(F.col(CORRUPT), row_as_json())
    rejected = judged.where(F.col("ending").isNotNull()).select(
        F.lit(source).alias("source"),
        F.col("ending").alias("reason"),
        F.col(FILE).alias("file"),
        "customer_id",
        content.alias("content"),
    )
    return rejected.groupBy(*rejected.columns).agg(F.count(F.lit(1)).alias("num_rows"))


def key_columns(names: list[str]) -> list[Column]:
    """The raw columns of these names, from the struct of the raw row."""
    return [F.col(f"{RAW}.{quoted(name)}") for name in names]


def lacks_key(key: list[str]) -> Column:
    """True for a row that no key identifies: a part of it is null, or none is declared."""
    return reduce(Column.__or__, [column.isNull() for column in key_columns(key)], F.lit(not key))


def row_as_json() -> Column:
    """The raw row as JSON, its times to the microsecond: rows that differ give texts that differ."""
    return F.to_json(RAW, _AS_JSON)


def _source_value(raw: DataFrame, name: str, attribute: Attribute) -> Column:
    if attribute.expression is not None:
        return F.expr(attribute.expression)
    if attribute.aggregate == "count" and attribute.column is None:
        return F.lit(1)
    return F.col(quoted(attribute.column or name))


def _typed(value: Column, data_type: DataType, attribute: Attribute) -> Column:
    if attribute.aggregate == "count":
        return F.when(value.isNotNull(), 1.0)
    if attribute.kind == "numerical":
        return _number(value, data_type)
    if attribute.kind == "categorical":
        return value.cast("string")
    if isinstance(data_type, ArrayType):
        return F.filter(value.cast("array<string>"), lambda item: item.isNotNull())
    text = value.cast("string")
    listed = F.from_json(text, "array<string>")  # where one JSON row has a single value, Spark hands over lists as text
    return F.when(text.startswith("["), F.coalesce(listed, F.array(text))).when(text.isNotNull(), F.array(text))


def _number(value: Column, data_type: DataType) -> Column:
    if isinstance(data_type, StringType):
        return F.trim(value).try_cast("double")
    if isinstance(data_type, BooleanType):
        return value.cast("int").cast("double")
    return value.cast("double")


def _in_zone(naive: Column, zone: str | None) -> Column:
    return F.lit(None).cast("timestamp") if zone is None else F.to_utc_timestamp(naive, zone)
