"""Requests for erasure: whom they name, and what was done about them, without any id in clear."""

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from caspr_spark.errors import ConfigError, UnsafeError
from caspr_spark.tombstones import ERASURES, customer_hash, secret_key

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Request:
    """What `erasures/<request_id>.json` holds; `finished` is empty while customers may still be found."""

    request_id: str
    requested: str
    """UTC, ISO 8601."""
    num_customers: int
    ids_hash: str
    """Keyed hash over the sorted ids, to know the same request again."""
    program: str
    versions_before: dict[str, int] = field(default_factory=dict)
    """Table -> the version of its rows before anything was erased (later ones up to then hold the same)."""
    rows_erased: dict[str, int] = field(default_factory=dict)
    """Table -> rows of the newest version that went."""
    files_erased: dict[str, int] = field(default_factory=dict)
    """Kind of file -> files that were deleted."""
    finished: str = ""


def checked_request_id(text: str) -> str:
    """The request's name as part of a file name. Raises ConfigError where it could mean another place."""
    if not _REQUEST_ID.fullmatch(text):
        raise ConfigError(
            f"request id: expected letters, digits, '.', '_' and '-', not beginning with '.', found {text!r}"
        )
    return text


def read_ids(place: Path, option: str = "--ids-file") -> list[str]:
    """The ids of a file, one a line, exactly as written; in a `.jsonl` file as JSON texts. Sorted, each once.

    `option`: of the command line, for the messages.

    Raises:
        ConfigError: there is no such file, it is not UTF-8, a line of JSON is no text, or it names nobody.
    """
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{option}: there is no file {place}") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{option}: {place} cannot be read as UTF-8 text ({type(error).__name__})") from None
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    if place.suffix == ".jsonl":
        lines = [_json_text(line, place, number, option) for number, line in enumerate(lines, start=1) if line.strip()]
    if not (ids := sorted({line for line in lines if line})):
        raise ConfigError(f"{option}: {place} names no customer; expected one id a line")
    return ids


def _json_text(line: str, place: Path, number: int, option: str) -> str:
    try:
        if isinstance(value := json.loads(line), str):
            return value
    except ValueError:
        pass
    raise ConfigError(f'--ids-file: {place}, line {number}: expected a JSON text such as "c1"') from None


def ids_hash(root: str, ids: list[str]) -> str:
    """Keyed hash over sorted ids."""
    return customer_hash(secret_key(root), json.dumps(ids))


def read_request(root: str, request_id: str) -> Request | None:
    """The request of this name; None where it was never made."""
    place = _place(root, request_id)
    return Request(**json.loads(place.read_text())) if place.exists() else None


def write_request(root: str, request: Request) -> None:
    """Replace what is known of the request, in one rename."""
    place = _place(root, request.request_id)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    part.write_text(json.dumps(asdict(request), indent=1) + "\n")
    os.replace(part, place)


def demand_same_ids(root: str, request: Request, ids: list[str]) -> None:
    """Raises ConfigError where the request was made for other customers."""
    if ids_hash(root, ids) != request.ids_hash:
        raise ConfigError(
            f"request {request.request_id} was made for {request.num_customers:,} customers who are not those of this "
            "file; give the file of that request, or choose another request id"
        )


def refuse_unfinished(root: str) -> None:
    """Raises UnsafeError where a request is half done: its tables are not in step until it is finished."""
    for place in sorted((Path(root) / ERASURES).glob("*.json")):
        if not Request(**json.loads(place.read_text())).finished:
            raise UnsafeError(
                f"{root}: the erasure '{place.stem}' was not finished; run the same `caspr-spark erase` again first"
            )


def _place(root: str, request_id: str) -> Path:
    return Path(root) / ERASURES / f"{request_id}.json"
