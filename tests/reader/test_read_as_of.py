"""Vectors as they were known at given times: against pandas.merge_asof, and case by case."""

import re
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.reader import read_as_of
from schemas.embeddings import CUSTOMER_EMBEDDINGS
from tests.reader.synthetic import HISTORY, SCHEMA, TIME, append, day, table_of

FIRST_MODEL = [row for row in HISTORY if row[2] == "m1"]
ENTITIES = pa.table(
    {
        "label": [1, 0, 1, 0, 1, 0, 1],
        "customer_id": ["bob", "ann", "ann", "zoe", "ann", None, "bob"],
        "event_time": pa.array([day(9), day(3), day(2.9), day(9), None, day(9), day(0.5)], TIME),
    }
)
EXPECTED = [[2, 0], [1, 3], [1, 0], None, None, None, None]


def vectors_of(frame: Any) -> list[list[float] | None]:
    """The column `embedding` of a frame of any kind."""
    if isinstance(frame, pd.DataFrame):
        return [None if value is None else list(value) for value in frame["embedding"]]
    found: list[list[float] | None] = frame["embedding"].to_pylist() if isinstance(frame, pa.Table) else []
    return found or frame["embedding"].to_list()


def at(*times: Any, customer: str = "ann") -> Any:
    return pa.table({"customer_id": [customer] * len(times), "event_time": pa.array(times)})


def test_each_row_gets_the_newest_vector_not_after_its_time(root: Path) -> None:
    found = read_as_of(root, ENTITIES, model_version="m1")
    assert vectors_of(found) == EXPECTED
    assert found.select(ENTITIES.column_names).equals(ENTITIES)
    assert found.column_names == [*ENTITIES.column_names, *SCHEMA.names[1:]]
    assert found.column("as_of").to_pylist() == [day(1), day(3), day(1), None, None, None, None]


@pytest.mark.parametrize("asked", ["arrow", "pandas", "polars"])
@pytest.mark.parametrize("given", ["arrow", "pandas", "polars"])
def test_every_kind_of_frame_in_and_out(given: str, asked: Any, root: Path) -> None:
    entities: Any = {"arrow": ENTITIES, "pandas": ENTITIES.to_pandas(), "polars": pl.from_arrow(ENTITIES)}[given]
    kinds = {"arrow": pa.Table, "pandas": pd.DataFrame, "polars": pl.DataFrame}
    found = read_as_of(root, entities, model_version="m1", as_=asked)
    assert isinstance(found, kinds[asked])
    assert vectors_of(found) == EXPECTED
    assert list(found["label"].to_pylist() if asked == "arrow" else found["label"]) == [1, 0, 1, 0, 1, 0, 1]
    assert isinstance(read_as_of(root, entities, model_version="m1"), kinds[given])


def test_a_pandas_index_and_columns_that_arrow_does_not_know_are_kept(root: Path) -> None:
    entities = ENTITIES.to_pandas().assign(anything=[object() for _ in EXPECTED]).set_axis([7, 7, 5, 4, 3, 2, 1])
    before = entities.copy()
    found = read_as_of(root, entities, model_version="m1")
    pd.testing.assert_frame_equal(found[entities.columns], before)
    pd.testing.assert_frame_equal(entities, before)
    assert vectors_of(found) == EXPECTED


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_age", [None, timedelta(hours=30)])
def test_random_rows_agree_with_merge_asof(seed: int, max_age: timedelta | None, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    # hours: many vectors and entities at one time; some customers without vectors, some vectors of no entity
    runs = [f"r{number}" for number in range(12)]
    history = pd.DataFrame(
        [
            (f"c{customer}", random.random(2).astype("float32"), day(1) + timedelta(hours=int(hour)), run)
            for run, hour in zip(runs, random.integers(0, 100, len(runs)), strict=True)
            for customer in random.choice(40, 20, replace=False)
        ],
        columns=["customer_id", "embedding", "as_of", "run_id"],
    )
    write_in_commits(tmp_path, history, random)
    entities = pd.DataFrame(
        {
            "customer_id": [f"c{number}" for number in random.integers(0, 60, 300)],
            "event_time": [day(1) + timedelta(hours=int(hour)) for hour in random.integers(-10, 130, 300)],
        }
    )
    entities.loc[random.choice(300, 20, replace=False), "event_time"] = pd.NaT
    found = read_as_of(tmp_path, entities, max_age=max_age)

    in_order = entities.reset_index().dropna().sort_values("event_time", kind="stable")
    expected = pd.merge_asof(
        in_order.astype({"event_time": "datetime64[us, UTC]"}),
        history.sort_values(["as_of", "run_id"]).astype({"as_of": "datetime64[us, UTC]"}),
        left_on="event_time",
        right_on="as_of",
        by="customer_id",
        tolerance=None if max_age is None else pd.Timedelta(max_age),
    )
    expected = expected.set_index("index").reindex(entities.index)
    assert 50 < expected["run_id"].notna().sum() < 290
    assert found["run_id"].where(found["run_id"].notna(), None).tolist() == (
        expected["run_id"].where(expected["run_id"].notna(), None).tolist()
    )
    with_vector = expected["run_id"].notna()
    np.testing.assert_array_equal(
        np.stack(list(found.loc[with_vector, "embedding"])), np.stack(list(expected.loc[with_vector, "embedding"]))
    )
    assert (found.loc[with_vector, "as_of"] <= found.loc[with_vector, "event_time"]).all()
    pd.testing.assert_frame_equal(found[["customer_id", "event_time"]], entities)


def write_in_commits(root: Path, history: pd.DataFrame, random: np.random.Generator) -> None:
    """Rows in random order, in three commits."""
    full = history.assign(last_event_time=history["as_of"], num_events=1, model_version="m1")
    table = pa.Table.from_pandas(full[SCHEMA.names], SCHEMA, preserve_index=False)
    for part in np.array_split(random.permutation(len(full)), 3):
        append(root, table.take(part))


def test_times_of_any_unit_and_zone_are_the_same_instant(root: Path) -> None:
    nanosecond_before = pa.array([int(day(3).timestamp()) * 10**9 - 1], pa.timestamp("ns", "UTC"))
    before = pa.table({"customer_id": ["ann"], "event_time": nanosecond_before})
    assert vectors_of(read_as_of(root, before, model_version="m1")) == [[1, 0]]
    for unit in ("s", "ms", "us", "ns"):
        same = at(day(3)).set_column(1, "event_time", at(day(3))["event_time"].cast(pa.timestamp(unit, "Asia/Tokyo")))
        assert vectors_of(read_as_of(root, same, model_version="m1")) == [[1, 3]]


def test_f54_times_without_a_zone_are_refused_unless_it_is_given(root: Path) -> None:
    naive = at(datetime(2024, 1, 3, 0, 30))
    with pytest.raises(CasprError, match=r"'event_time' have no time zone; say which they are in, e.g. zone='UTC'"):
        read_as_of(root, naive)
    assert vectors_of(read_as_of(root, naive, zone="UTC")) == [[1, 3]]
    assert vectors_of(read_as_of(root, naive, zone="Europe/Berlin")) == [[1, 0]]
    assert vectors_of(read_as_of(root, at(date(2024, 1, 3)), zone="UTC")) == [[1, 3]]
    for problem in (naive.to_pandas(), pl.from_arrow(naive), at(date(2024, 1, 3))):
        with pytest.raises(CasprError, match="no time zone"):
            read_as_of(root, problem)


def test_f54_a_local_time_that_comes_twice_or_never_is_refused(root: Path) -> None:
    for time, word in ((datetime(2023, 10, 29, 2, 30), "ambiguous"), (datetime(2024, 3, 31, 2, 30), "exist")):
        with pytest.raises(CasprError, match=f"'event_time'.*{word}"):
            read_as_of(root, at(time), zone="Europe/Berlin")
    with pytest.raises(CasprError, match="Mars"):
        read_as_of(root, at(datetime(2024, 1, 1)), zone="Mars/North")


def test_python_times_in_a_pandas_column_are_refused(root: Path) -> None:
    mixed = pd.DataFrame(
        {"customer_id": ["ann"] * 2, "event_time": pd.Series([day(3), datetime(2024, 1, 3)], dtype=object)}
    )
    with pytest.raises(CasprError, match=r"pandas.to_datetime\(…, utc=True\)"):
        read_as_of(root, mixed)


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars"])
def test_no_entities_give_no_rows(kind: Any, root: Path) -> None:
    found = read_as_of(root, ENTITIES.slice(0, 0), as_=kind)
    assert len(found) == 0
    assert len(read_as_of(root, pd.DataFrame({"customer_id": [], "event_time": []}))) == 0


def test_f72_two_models_in_a_result_are_refused_and_named(root: Path) -> None:
    both = at(day(4), day(9))
    message = "2 models.*m1: 1 vectors, as of 2024-01-03 00:00 to.*; m2: 1 vectors.*model_version=.*mix_models=True"
    with pytest.raises(UnsafeError, match=message):
        read_as_of(root, both)
    assert vectors_of(read_as_of(root, both, mix_models=True)) == [[1, 3], [1, 5]]
    assert vectors_of(read_as_of(root, both, model_version="m1")) == [[1, 3], [1, 3]]
    assert vectors_of(read_as_of(root, both, model_version="m2")) == [None, [1, 5]]
    assert vectors_of(read_as_of(root, at(day(2), day(4)))) == [[1, 0], [1, 3]]  # the other model is not touched


def test_f72_a_challenger_of_the_same_as_of_does_not_slip_in(root: Path) -> None:
    append(root, table_of([("ann", 3, "m9", "r9", (9, 9))]))
    with pytest.raises(UnsafeError, match=r"m1: 1 vectors.*m9: 1 vectors"):
        read_as_of(root, at(day(4)))
    assert vectors_of(read_as_of(root, at(day(4)), model_version="m1")) == [[1, 3]]
    assert vectors_of(read_as_of(root, at(day(4)), mix_models=True)) == [[9, 9]]


def serve(root: Path, model: str) -> None:
    """The latest table holds one model's vectors, as publishing leaves it."""
    rows = [row for row in HISTORY if row[2] == model]
    write_deltalake(root / CUSTOMER_EMBEDDINGS.name, table_of(rows), mode="overwrite")


def test_f72_a_challenger_beside_the_champion_changes_nothing(root: Path) -> None:
    serve(root, "m1")
    times = at(day(2), day(4), day(9), day(0.5))
    before = read_as_of(root, times)
    assert vectors_of(before) == [[1, 0], [1, 3], [1, 3], None]
    append(root, table_of([("ann", 3, "m9", "r9", (9, 9)), ("ann", 8, "m9", "r8", (9, 8))]))
    assert read_as_of(root, times).equals(before)
    assert vectors_of(read_as_of(root, at(day(9)), max_age=timedelta(days=2))) == [None]


def test_f72_times_of_the_champion_before_are_refused_and_later_ones_get_the_new(root: Path) -> None:
    serve(root, "m2")
    assert vectors_of(read_as_of(root, at(day(9), day(0.5)))) == [[1, 5], None]
    assert vectors_of(read_as_of(root, at(day(9), customer="zoe"))) == [None]
    message = (
        r"for 2 rows there is no vector of the champion.*\(m1: 2 vectors, as of 2024-01-01 00:00 to 2024-01-03.*\)\."
    )
    with pytest.raises(UnsafeError, match=message + " Choose one with model_version="):
        read_as_of(root, at(day(2), day(4), day(9)))
    assert vectors_of(read_as_of(root, at(day(4)), max_age=timedelta(hours=2))) == [None]
    with pytest.raises(UnsafeError, match="m1: 1 vectors"):
        read_as_of(root, at(day(9), customer="bob"))  # m2 never had one of bob
    assert vectors_of(read_as_of(root, at(day(2), day(9)), model_version="m1")) == [[1, 0], [1, 3]]


def test_an_unknown_model_is_refused_with_those_that_there_are(root: Path) -> None:
    with pytest.raises(CasprError, match="no model_version 'm7' here; it has, newest first: m2, m1"):
        read_as_of(root, at(day(4)), model_version="m7")
    assert vectors_of(read_as_of(root, at(day(4), customer="zoe"), model_version="m2")) == [None]


def test_a_chosen_column_alone_is_added(root: Path) -> None:
    known_as_of = pa.table({"customer_id": ["bob"], "as_of": [day(4)]})
    found = read_as_of(root, known_as_of, time_column="as_of", columns=["embedding", "run_id"])
    assert found.to_pylist() == [{"customer_id": "bob", "as_of": day(4), "embedding": [2, 0], "run_id": "r1"}]
    with pytest.raises(CasprError, match=r"the columns as_of are there already"):
        read_as_of(root, known_as_of, time_column="as_of")
    with pytest.raises(CasprError, match=r"columns: expected a list of customer_id, embedding, .*; found embeding"):
        read_as_of(root, known_as_of, time_column="as_of", columns=["embeding"])


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        (pa.table({"customer_id": [7], "event_time": [day(3)]}), "'customer_id' is int64; expected texts"),
        (pa.table({"customer": ["ann"], "event_time": [day(3)]}), "a column 'customer_id', found customer, event_time"),
        (pa.table({"customer_id": ["ann"]}), "a column 'event_time', found customer_id"),
        (pa.table({"customer_id": ["ann"], "event_time": ["2024-01-03"]}), "'event_time' is string; expected times"),
        (
            pd.DataFrame({"customer_id": ["ann", 7], "event_time": [day(3)] * 2}),
            "'customer_id' holds values of several",
        ),
        ([("ann", day(3))], "expected a pyarrow.Table, pandas.DataFrame or polars.DataFrame, found list"),
        (pl.LazyFrame({"customer_id": ["ann"]}), "found LazyFrame"),
    ],
)
def test_what_is_wrong_with_the_entities_is_said(entities: Any, message: str, root: Path) -> None:
    with pytest.raises(CasprError, match=re.escape(message)):
        read_as_of(root, entities)


def test_encoded_and_large_texts_are_texts(root: Path) -> None:
    for type_ in (pa.dictionary(pa.int8(), pa.string()), pa.large_string()):
        encoded = pa.table({"customer_id": pa.array(["bob", None], type_), "event_time": [day(9), day(9)]})
        assert vectors_of(read_as_of(root, encoded)) == [[2, 0], None]
    category = pd.DataFrame({"customer_id": pd.Categorical(["bob"]), "event_time": [pd.Timestamp(day(9))]})
    assert vectors_of(read_as_of(root, category)) == [[2, 0]]


def test_negative_max_age_is_refused(root: Path) -> None:
    with pytest.raises(CasprError, match="max_age: expected zero or more"):
        read_as_of(root, at(day(3)), max_age=timedelta(days=-1))
