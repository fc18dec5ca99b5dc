"""Verification finds a trace in every kind of place, and none where there is none."""

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from caspr_spark.erase import traces as reading
from caspr_spark.erase.names import Names
from caspr_spark.erase.traces import traces

STATS = {"numRecords": 2, "minValues": {"customer_id": "c3"}, "maxValues": {"customer_id": "c9"}}
ADDED = json.dumps({"add": {"path": "part.parquet", "stats": json.dumps(STATS)}})


def png(kind: bytes, content: bytes) -> bytes:
    """A picture that is nothing but one text chunk."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", len(content), kind) + content + b"\0\0\0\0"


def parquet(place: Path, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), place, compression="zstd")


def checkpoint_of_a_log(place: Path) -> None:
    parquet(place, add=pa.array([{"path": "part.parquet", "stats": json.dumps(STATS)}]))


def nested(place: Path) -> None:
    held = pa.array([[{"event_id": "orders:c3:7", "n": 1}], None])
    parquet(place, customer_id=pa.array(["c1", None]), newest=held)


def footer(place: Path) -> None:
    pq.write_table(pa.table({"n": [1]}).replace_schema_metadata({"note": "made for c3"}), place)


PLANTED: dict[str, Callable[[Path], None]] = {
    "events/part-0.parquet: column customer_id": lambda place: parquet(place, customer_id=pa.array(["c1", "c3"])),
    "events/_change_data/cdc-0.parquet: column customer_id": lambda place: parquet(place, customer_id=pa.array(["c3"])),
    "customer_states/part-0.parquet: column newest.event_id": nested,
    "events/_delta_log/00000000000000000007.json: text": lambda place: place.write_text(ADDED),
    "events/_delta_log/00000000000000000007.checkpoint.parquet: column add.stats": checkpoint_of_a_log,
    "rejected/part-0.parquet: column content": lambda place: parquet(place, content=pa.array(['{"who": "c3", broken'])),
    "sequences/20240131T000000Z/touched-0/part-0.parquet: footer": footer,
    "report/index.html: text": lambda place: place.write_text("<td>c3</td>"),
    "logs/spark.log: text": lambda place: place.write_text("x\nrow of c3, unreadable\n"),
    "logs/old.gz: unpacked text": lambda place: place.write_bytes(gzip.compress(b"seen: c3.")),
    "report/map.png: text of the picture": lambda place: place.write_bytes(
        png(b"zTXt", b"note\0\0" + zlib.compress(b"of c3"))
    ),
    "dictionary.parquet: column customer_id": lambda place: parquet(
        place, customer_id=pa.array(["c3"]).dictionary_encode()
    ),
    "packed.zip: packed in a form that is not read": lambda place: place.write_bytes(b"PK\x03\x04"),
    "torn.gz: packed, and cannot be unpacked": lambda place: place.write_bytes(gzip.compress(b"c1" * 99)[:-9]),
    "torn.parquet: Parquet that cannot be read": lambda place: place.write_bytes(b"PAR1"),
    "….txt: its name": lambda place: place.with_name("c3.txt").write_text(""),
}


@pytest.mark.parametrize("place", PLANTED)
def test_f98_a_planted_trace_is_found_and_its_place_told_without_the_id(place: str, tmp_path: Path) -> None:
    path = tmp_path / place.split(": ")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    PLANTED[place](path)
    found = traces(tmp_path, Names(["c3", "nobody"]))
    assert place in found.places
    assert "c3" not in "".join(found.places)


def test_others_are_not_found(tmp_path: Path) -> None:
    parquet(
        tmp_path / "part-0.parquet", customer_id=pa.array(["c30", "ac3", None]), words=pa.array(["c4 c33", "", "c"])
    )
    (tmp_path / "a.html").write_text("<p>c31</p><img src='data:image/png;base64,AA/c3/AA=='>")
    (tmp_path / "weights").write_bytes(b"\0\xff c3 \0")
    found = traces(tmp_path, Names(["c3"]))
    assert (found.num_files, found.places) == (3, ())
    assert found.num_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_a_short_number_is_looked_for_only_where_customers_stand(tmp_path: Path) -> None:
    pd.DataFrame({"customer_id": ["8"], "page": ["7"]}).to_parquet(tmp_path / "others.parquet")
    (tmp_path / "log.json").write_text('{"minValues": {"customer_id": "70", "n": 7}}')
    assert traces(tmp_path, Names(["7"])).places == ()
    pd.DataFrame({"customer_id": ["7"]}).to_parquet(tmp_path / "theirs.parquet")
    (tmp_path / "stats.json").write_text('"stats": "{\\"minValues\\":{\\"customer_id\\":\\"7\\"}}"')
    assert traces(tmp_path, Names(["7"])).places == (
        "stats.json: text",
        "theirs.parquet: column customer_id",
        "theirs.parquet: statistics of customer_id",
    )


def test_long_ids_and_ids_of_several_words_are_found_among_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"\0\xff\xfecustomer-00017\0")
    (tmp_path / "note").write_text("for Ann Lee, by hand")
    found = traces(tmp_path, Names(["omer-0001", "Ann Lee"]))
    assert found.places == ("note: bytes", "note: text", "weights: bytes")


@pytest.mark.parametrize("before", range(8))
def test_an_id_is_found_wherever_a_chunk_ends(before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_CHUNK", 4)
    (tmp_path / "a").write_text("-" * before + " c3 end")
    assert traces(tmp_path, Names(["c3"])).places == ("a: text",)
    (tmp_path / "a").write_text("-" * before + " c34 ac3 end")
    assert traces(tmp_path, Names(["c3"])).places == ()
