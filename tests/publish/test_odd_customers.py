"""Customers of any name: what was published of one is what a reader gets for exactly that name."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.erase.names import Names
from caspr_spark.erase.requests import read_ids
from caspr_spark.errors import ConfigError
from caspr_spark.reader import read_as_of, read_latest, read_run
from caspr_spark.tombstones import customer_hash
from pipelines.publish_embeddings import publish_embeddings
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS
from tests.reader.synthetic import day, table_of
from tests.sequences.test_odd_values import ODD_IDS

NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)


def test_f37_published_vectors_are_found_by_the_exact_name(spark: SparkSession, config: Config, embed: Any) -> None:
    first = {name: (number, 1) for number, name in enumerate(ODD_IDS)}
    second = {name: (number, 2) for number, name in enumerate(ODD_IDS[::2])}
    publish_embeddings(spark, config, embed(first, day=1, run_id="r1"))
    publish_embeddings(spark, config, embed(second, day=2, run_id="r2"))

    wanted = {name: tuple(map(float, vector)) for name, vector in (first | second).items()}
    assert vectors(read_latest(config.root)) == wanted
    for name in ODD_IDS:
        assert vectors(read_latest(config.root, [name])) == {name: wanted[name]}
    assert vectors(read_run(config.root, "r2")).keys() == set(ODD_IDS[::2])
    times = pa.array([datetime(2017, 10, 1, 12, tzinfo=UTC)] * len(ODD_IDS))
    then = read_as_of(config.root, pa.table({"customer_id": ODD_IDS, "event_time": times}), columns=["embedding"])
    assert then.column("embedding").to_pylist() == [list(map(float, first[name])) for name in ODD_IDS]


def vectors(table: Any) -> dict[str, tuple[float, ...]]:
    return {row["customer_id"]: tuple(row["embedding"]) for row in table.to_pylist()}


@settings(max_examples=15, deadline=None)
@given(names=st.lists(NAME, min_size=1, max_size=20, unique=True))
def test_f37_names_of_all_kinds_read_back(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("names")
    rows = [(name, 1, "m1", "r1", (float(number), 0)) for number, name in enumerate(names)]
    for contract in (CUSTOMER_EMBEDDINGS, CUSTOMER_EMBEDDING_HISTORY):
        write_deltalake(root / contract.name, table_of(rows))
    one = names[len(names) // 2]
    wanted = {name: (float(number), 0.0) for number, name in enumerate(names)}
    assert vectors(read_latest(root)) == wanted
    assert vectors(read_latest(root, [one])) == {one: wanted[one]}
    assert vectors(read_run(root, "r1", names)) == wanted
    entities = pa.table({"customer_id": [one], "event_time": pa.array([day(2)])})
    assert read_as_of(root, entities, columns=["embedding"]).column("embedding").to_pylist() == [list(wanted[one])]


@given(names=st.lists(NAME, min_size=1, unique=True))
def test_f37_any_name_can_stand_in_a_request_to_erase(
    names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("ids") / "ids.jsonl"
    place.write_text("".join(json.dumps(name, ensure_ascii=False) + "\n" for name in names), encoding="utf-8")
    assert read_ids(place) == sorted(names)
    assert len({customer_hash("key", name) for name in names}) == len(names)
    assert Names(names).are_among(names[:1])


def test_f37_a_line_that_is_no_json_text_is_named(tmp_path: Path) -> None:
    place = tmp_path / "ids.jsonl"
    place.write_text('"c1"\nc2\n')
    with pytest.raises(ConfigError, match="line 2: expected a JSON text") as error:
        read_ids(place)
    assert "c2" not in str(error.value)
