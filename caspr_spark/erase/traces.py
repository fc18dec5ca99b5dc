"""Proof of an erasure: every byte of every file below a root is read, unpacked where it is packed, and searched."""

import codecs
import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from caspr_spark.erase.names import Names

_CHUNK = 8 * 1024 * 1024
_ROWS = 65_536
_PARQUET, _GZIP, _PNG = b"PAR1", b"\x1f\x8b", b"\x89PNG\r\n\x1a\n"
_OTHERS_PACKED = (b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # zip, bzip2, xz, zstandard
_CUT_WORD, _BEGUN_WORD = re.compile(r"[\w@.+-]+$"), re.compile(r"^[\w@.+-]+")  # at the ends of a chunk


@dataclass(frozen=True)
class Reading:
    """What was read, and the places (file, and where in it) that name one of the customers; without any id."""

    num_files: int
    num_bytes: int
    places: tuple[str, ...]


def traces(root: Path, names: Names) -> Reading:
    """Read all files below `root`, hidden ones and names of files too."""
    places: list[str] = []
    num_files = num_bytes = 0
    for path in sorted(root.rglob("*")):
        shown = "/".join(names.hidden(part) for part in path.relative_to(root).parts)
        if names.are_in_text(f"{path.name} {_stem(path.name)}"):
            places.append(f"{shown}: its name")
        if path.is_symlink():
            places.append(f"{shown}: a link, which leads out of what was read")
        elif path.is_file():
            num_files, num_bytes = num_files + 1, num_bytes + path.stat().st_size
            places += [f"{shown}: {where}" for where in sorted(_in_file(path, names))]
    return Reading(num_files, num_bytes, tuple(places))


def _stem(name: str) -> str:
    """The name before its first dot."""
    return name.split(".")[0]


def _in_file(path: Path, names: Names) -> set[str]:
    with path.open("rb") as file:
        start = file.read(len(_PNG))
        file.seek(0)
        found = _in_stream(file, names)
    if start.startswith(_PARQUET):
        found |= _in_parquet(path, names)
    elif start.startswith(_GZIP):
        found |= _in_gzip(path, names)
    elif start.startswith(_PNG):
        found |= _in_png(path.read_bytes(), names)
    elif start.startswith(_OTHERS_PACKED):
        found.add("packed in a form that is not read")
    return found


def _in_stream(file: IO[bytes] | gzip.GzipFile, names: Names) -> set[str]:
    """Plain bytes, and text as far as they are UTF-8. Chunks overlap by the longest id and what stands around it."""
    found: set[str] = set()
    decoder: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
    last_bytes, last_text, overlap = b"", "", names.longest + 64
    while chunk := file.read(_CHUNK):
        if names.are_in_bytes(last_bytes + chunk):
            found.add("bytes")
        last_bytes = chunk[-names.longest :]
        if decoder is None or b"\0" in chunk:
            decoder = None
            continue
        try:
            text = last_text + decoder.decode(chunk)
        except UnicodeDecodeError:
            decoder = None
            continue
        if names.are_in_text(_CUT_WORD.sub("", text) if len(chunk) == _CHUNK else text):
            found.add("text")
        last_text = _BEGUN_WORD.sub("", text[-overlap:])
    return found


def _in_gzip(path: Path, names: Names) -> set[str]:
    try:
        with gzip.open(path) as unpacked:
            return {f"unpacked {where}" for where in _in_stream(unpacked, names)}
    except (OSError, EOFError, zlib.error):
        return {"packed, and cannot be unpacked"}


def _in_png(data: bytes, names: Names) -> set[str]:
    """The text chunks of a picture."""
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        content = data[position + 8 : position + 8 + length]
        position += length + 12
        if kind in (b"zTXt", b"iTXt"):
            content = _unpacked(content)
        if kind in (b"tEXt", b"zTXt", b"iTXt") and names.are_in_text(content.decode("latin-1").replace("\0", " ")):
            return {"text of the picture"}
    return set()


def _unpacked(content: bytes) -> bytes:
    """A PNG text chunk with its compressed part, if it has one, laid open."""
    start = content.find(b"\x78")  # where zlib begins
    try:
        return content[:start] + b" " + zlib.decompress(content[start:]) if start >= 0 else content
    except zlib.error:
        return content


def _in_parquet(path: Path, names: Names) -> set[str]:
    """Footer and every text of every column, however deep; values of packed pages are unpacked by pyarrow."""
    try:
        with pq.ParquetFile(path) as file:
            found = _in_footer(file.metadata, names)
            for batch in file.iter_batches(batch_size=_ROWS):
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    for place, texts in _texts(column, name):
                        if place not in found and _is_named(texts, place, names):
                            found.add(f"column {names.hidden(place)}")
            return found
    except (pa.ArrowException, OSError):
        return {"Parquet that cannot be read"}


def _in_footer(footer: Any, names: Names) -> set[str]:
    found = set()
    for key, value in (footer.metadata or {}).items():
        if names.are_in_text(f"{key.decode(errors='replace')} {value.decode(errors='replace')}"):
            found.add("footer")
    for group in range(footer.num_row_groups):
        for number in range(footer.num_columns):
            column = footer.row_group(group).column(number)
            if column.statistics is None or not column.statistics.has_min_max:
                continue
            ends = [value for value in (column.statistics.min, column.statistics.max) if isinstance(value, str)]
            if _name_customers(ends, column.path_in_schema, names):
                found.add(f"statistics of {names.hidden(column.path_in_schema)}")
    return found


def _texts(column: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every array of strings inside of a column, with its path."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _texts(column.dictionary, place)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield place, column
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        yield place, pa.array([value.decode("latin-1") for value in pc.unique(column).to_pylist() if value is not None])
    elif pa.types.is_map(kind):
        yield from _texts(column.keys, f"{place}.key")
        yield from _texts(column.items, f"{place}.value")
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts(column.flatten(), place)
    elif pa.types.is_struct(kind):
        for field, child in zip(kind, column.flatten(), strict=True):
            yield from _texts(child, f"{place}.{field.name}")


def _is_named(texts: Any, place: str, names: Names) -> bool:
    return _name_customers([value for value in pc.unique(texts).to_pylist() if value is not None], place, names)


def _name_customers(values: list[str], place: str, names: Names) -> bool:
    is_of_customers = place.rsplit(".", 1)[-1] == "customer_id"
    return (is_of_customers and names.are_among(values)) or names.are_in_text("\n".join(values))
