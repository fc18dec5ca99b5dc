"""Frames in and out of the reader: pyarrow, pandas and Polars. The latter two are imported only where they are used."""

import sys
from typing import Any, Literal, TypeAlias, get_args

import pyarrow as pa
import pyarrow.compute as pc

from caspr_spark.errors import CasprError

Kind = Literal["arrow", "pandas", "polars"]
Frame: TypeAlias = Any  # pyarrow.Table, pandas.DataFrame or polars.DataFrame
UTC = pa.timestamp("us", "UTC")


def kind_of(frame: Frame) -> Kind:
    """Raises CasprError for anything but the three kinds."""
    # Whoever holds a frame of theirs has imported them.
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if isinstance(frame, pa.Table):
        return "arrow"
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        return "pandas"
    if polars is not None and isinstance(frame, polars.DataFrame):
        return "polars"
    raise CasprError(
        f"entities: expected a pyarrow.Table, pandas.DataFrame or polars.DataFrame, found {type(frame).__qualname__}"
    )


def column_names(frame: Frame) -> list[str]:
    return frame.column_names if kind_of(frame) == "arrow" else list(frame.columns)


def as_kind(frame: Frame, kind: Kind) -> Frame:
    """The frame as another kind, through Arrow; a pandas index is lost. Raises CasprError for an unknown kind."""
    if kind not in get_args(Kind):
        raise CasprError(f"as_: expected {', '.join(get_args(Kind))}; found {kind!r}")
    given = kind_of(frame)
    if given == kind:
        return frame
    table = frame
    if given == "pandas":
        table = pa.Table.from_pandas(frame, preserve_index=False)
    elif given == "polars":
        table = frame.to_arrow()
    if kind == "pandas":
        return table.to_pandas()
    if kind == "polars":
        import polars

        return polars.from_arrow(table)
    return table


def with_columns(frame: Frame, added: Any) -> Frame:
    """`frame` and, to its right, the columns of the pyarrow.Table `added`; row by row, whatever the pandas index is."""
    kind = kind_of(frame)
    if kind == "pandas":
        columns = added.to_pandas().set_index(frame.index)
        return frame.assign(**{name: columns[name] for name in columns})
    if kind == "polars":
        return frame.hstack(as_kind(added, "polars").get_columns())
    for name in added.column_names:
        frame = frame.append_column(name, added.column(name))
    return frame


def texts_of(frame: Frame, name: str) -> Any:
    """A column of texts, plain or dictionary-encoded, as pyarrow.Array. Raises CasprError for other types."""
    column = _column(frame, name)
    type_ = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_null(type_) or "string" in str(type_)):
        raise CasprError(
            f"entities: column '{name}' is {type_}; expected texts as in the raw tables, e.g. '007' and not 7"
        )
    return column.cast(pa.string())


def times_of(frame: Frame, name: str, zone: str | None) -> Any:
    """A column of times as pyarrow.Array of timestamp[us, UTC]; those without a zone are local times of `zone`.

    Parts of a microsecond are cut off, which never moves a time forward. Raises CasprError for what is no time or has
    no zone.
    """
    times = _column(frame, name)
    if pa.types.is_null(times.type):
        return times.cast(UTC)
    if pa.types.is_date(times.type):
        times = times.cast(pa.timestamp("s") if pa.types.is_date32(times.type) else pa.timestamp("ms"))
    if not pa.types.is_timestamp(times.type):
        raise CasprError(f"entities: column '{name}' is {times.type}; expected times")
    if times.type.tz is None:
        if zone is None:
            raise CasprError(
                f"entities: the times of column '{name}' have no time zone; say which they are in, e.g. zone='UTC'"
            )
        try:
            times = pc.assume_timezone(times, zone)
        except pa.ArrowInvalid as error:  # no such zone, or a time that comes twice or never when clocks are changed
            raise CasprError(f"entities: column '{name}': {str(error).splitlines()[0]}") from None
    times = times.cast(pa.timestamp(times.type.unit, "UTC"))
    return pc.floor_temporal(times, unit="microsecond").cast(UTC)


def _column(frame: Frame, name: str) -> Any:
    if name not in column_names(frame):
        raise CasprError(f"entities: expected a column '{name}', found {', '.join(map(str, column_names(frame)))}")
    kind = kind_of(frame)
    if kind == "pandas":
        column = _pandas_column(frame[name], name)
    else:
        column = frame.column(name).combine_chunks() if kind == "arrow" else frame.get_column(name).to_arrow()
    # What holds no value need not be of the right type: pandas makes numbers of an empty column.
    return column if column.null_count < len(column) else pa.nulls(len(column))


def _pandas_column(column: Any, name: str) -> Any:
    # Of Python's own times, pyarrow would take one without a zone for UTC as soon as another has a zone.
    if column.dtype == object and any(hasattr(value, "tzinfo") for value in column.dropna()):
        raise CasprError(
            f"entities: column '{name}' holds Python objects; make times of it, e.g. pandas.to_datetime(…, utc=True)"
        )
    try:
        found = pa.Array.from_pandas(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise CasprError(f"entities: column '{name}' holds values of several types: {error}") from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
