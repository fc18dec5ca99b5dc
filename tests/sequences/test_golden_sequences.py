"""Sequences, vocabulary and scaling of a few rows, written out by hand."""

import math
from datetime import UTC, datetime

import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.manifest import CategoricalAttribute, Layout, SetAttribute
from caspr_spark.sequences.assemble import customer_sequences, with_ids, with_set_ids
from caspr_spark.sequences.timeline import newest_events, profiles_as_of, visible_events, with_time_parts
from caspr_spark.sequences.vocabulary import (
    categorical_scaling,
    grown_vocabulary,
    numerical_scaling,
    value_counts,
    vocabulary_hash,
)
from caspr_spark.session import local_frame
from schemas.vocabulary import VOCABULARY

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
VOCABULARY_DDL = VOCABULARY.ddl.replace(" not null", "")
EVENTS = [  # customer, time, event_id, shop, labels, amount
    ("ann", "2024-02-01 23:30:00", "e2", "north", ["b", "a"], 1.5),
    ("ann", "2024-02-01 23:30:00", "e1", "unseen", ["zzz"], None),  # the same time: e1 stands before e2
    ("ann", "2024-01-01 00:00:00", "e0", "south", None, -2.0),
    ("ann", "2023-01-01 00:00:00", "too_old", "north", ["a"], 9.0),  # the fourth
    ("ann", "2024-03-01 00:00:00", "at_as_of", "north", ["a"], 9.0),
    ("bob", "2024-02-29 23:59:59.999999", "e9", None, [], 0.25),  # has no profile: ids 0 and NaN
    ("eve", "2024-03-01 00:00:01", "e7", "north", ["a"], 9.0),  # nothing before as_of: no row
]
PROFILES = [  # customer, profile, valid_from, region, income, language
    ("ann", "accounts", "2024-01-01", "east", 10.0, None),
    ("ann", "accounts", "2023-01-01", "west", 5.0, None),
    ("ann", "accounts", "2024-03-01", "far", 99.0, None),  # from as_of on: not known yet
    ("ann", "people", "1970-01-01", None, None, "de"),
    ("eve", "accounts", "2024-01-01", "east", 1.0, None),
]
IDS = [
    ("shop", "north", 3),
    ("shop", "south", 4),
    ("labels", "a", 3),
    ("labels", "b", 4),
    ("region", "east", 3),
    ("language", "fr", 3),
    ("hour", "0", 3),
]
LAYOUT = Layout(
    max_events=3,
    categorical=(CategoricalAttribute(name="shop", num_ids=5), CategoricalAttribute(name="hour", num_ids=4)),
    sets=(SetAttribute(name="labels", num_ids=5, max_values=2),),
    numerical=("amount",),
    profile_categorical=(
        CategoricalAttribute(name="region", num_ids=4),
        CategoricalAttribute(name="language", num_ids=4),
    ),
    profile_numerical=("income",),
)


def frame(spark: SparkSession, rows: list[tuple], ddl: str) -> DataFrame:  # type: ignore[type-arg]
    """Rows whose times are written as text."""
    columns = [column.strip().split(" ")[0] for column in ddl.split(", ")]
    kinds = [column.strip().split(" ")[1] for column in ddl.split(", ")]
    table = local_frame(spark, rows, ", ".join(d.replace("timestamp", "string") for d in ddl.split(", ")))
    return table.selectExpr(*[f"cast({c} as {k}) as {c}" for c, k in zip(columns, kinds, strict=True)])


def test_f41_f53_f56_f58_two_customers_written_out(spark: SparkSession) -> None:
    ddl = "customer_id string, event_time timestamp, event_id string, shop string, labels array<string>, amount double"
    vocabulary = local_frame(spark, [(*row, 1) for row in IDS], VOCABULARY_DDL)
    events = newest_events(visible_events(frame(spark, EVENTS, ddl), as_of=AS_OF), max_events=3)
    events = with_time_parts(events, parts=["hour"], zone="Europe/Berlin")  # one hour ahead of UTC
    events = with_set_ids(
        with_ids(events, vocabulary, attributes=["shop", "hour"]), vocabulary, max_values={"labels": 2}
    )
    ddl = "customer_id string, profile string, valid_from_time timestamp, region string, income double, language string"
    attributes = {"region": "accounts", "income": "accounts", "language": "people"}
    profiles = profiles_as_of(frame(spark, PROFILES, ddl), as_of=AS_OF, attributes=attributes)
    profiles = with_ids(profiles, vocabulary, attributes=["region", "language"])

    rows = customer_sequences(events, profiles, layout=LAYOUT).drop("customer_key").orderBy("customer_id").collect()

    nan = "nan"
    assert [str(row.asDict()) for row in rows] == [
        str(wanted).replace("'nan'", "nan")
        for wanted in (
            {
                "customer_id": "ann",
                "num_events": 3,
                "event_times": [1704067200000000, 1706830200000000, 1706830200000000],
                "categorical": [4, 1, 1, 3, 3, 3],  # (south, 1 o'clock), (unseen, 0 o'clock), (north, 0 o'clock)
                "sets": [0, 0, 1, 0, 4, 3],
                "numerical": [-2.0, nan, 1.5],
                "profile_categorical": [3, 1],
                "profile_numerical": [10.0],
            },
            {
                "customer_id": "bob",
                "num_events": 1,
                "event_times": [1709251199999999, 0, 0],
                "categorical": [0, 3, 0, 0, 0, 0],
                "sets": [0, 0, 0, 0, 0, 0],
                "numerical": [0.25, 0.0, 0.0],
                "profile_categorical": [0, 0],
                "profile_numerical": [nan],
            },
        )
    ]


def test_ids_are_stable_new_values_follow_by_frequency_then_by_value(spark: SparkSession) -> None:
    known = local_frame(spark, [("page", "home", 3, 9), ("page", "gone", 5, 7), ("tag", "x", 3, 2)], VOCABULARY_DDL)
    counts = [("page", "home", 1), ("page", "b", 4), ("page", "a", 4), ("page", "often", 6), ("page", "rare", 2)]
    counts += [("tag", "é", 3), ("tag", "z", 3), ("new", "v", 3), ("new", "V", 3)]
    counted = local_frame(spark, counts, "attribute string, value string, num_occurrences bigint")

    grown = grown_vocabulary(known, counted, min_count=3)

    rows = {(row["attribute"], row["value"]): (row["id"], row["num_occurrences"]) for row in grown.collect()}
    assert rows == {
        ("page", "home"): (3, 1),  # rare by now, and still it keeps its id
        ("page", "gone"): (5, 7),  # not seen any more
        ("page", "often"): (6, 6),
        ("page", "a"): (7, 4),
        ("page", "b"): (8, 4),
        ("tag", "x"): (3, 2),
        ("tag", "z"): (4, 3),  # by UTF-8: z before é
        ("tag", "é"): (5, 3),
        ("new", "V"): (3, 3),
        ("new", "v"): (4, 3),
    }


def test_the_vocabularys_hash_is_of_its_content_alone(spark: SparkSession) -> None:
    rows = [("page", "a", 3, 5), ("page", "b", 4, 5), ("tag", "a", 3, 5)]

    def hash_of(rows: list[tuple[str, str, int, int]]) -> str:
        return vocabulary_hash(local_frame(spark, rows, VOCABULARY_DDL))

    assert hash_of(rows) == hash_of([(*row[:3], 99) for row in rows[::-1]])
    assert len({hash_of(rows), hash_of(rows[:2]), hash_of([("page", "a", 4, 5), ("page", "b", 3, 5), rows[2]])}) == 3


def test_scaling_by_hand(spark: SparkSession) -> None:
    """shop: ids 3 twice, 1 (a rare value) once, absent once. labels of two events: a in both, b in one, c unknown."""
    rows = [
        ("north", ["a", "b"], math.e - 1, 5.0, None),
        ("north", ["a", "c"], 1 - math.e, 5.0, None),
        ("rare", None, 0.0, 5.0, None),
        (None, None, None, None, None),
    ]
    table = local_frame(spark, rows, "shop string, labels array<string>, amount double, same double, nothing double")
    ids = [("shop", "north", 3, 2), ("labels", "a", 3, 2), ("labels", "b", 4, 1), ("page", "x", 3, 1)]
    vocabulary = local_frame(spark, ids, VOCABULARY_DDL)
    counts = value_counts(table, categorical=["shop"], sets=["labels"])

    fitted = numerical_scaling(table, numerical=["amount", "same", "nothing"]).unionAll(
        categorical_scaling(table, counts, vocabulary, categorical=["shop"], sets=["labels"])
    )

    found = {row["attribute"]: tuple(row)[1:] for row in fitted.collect()}
    log = math.log
    assert found == {
        "amount": (3, pytest.approx(0.0, abs=1e-15), pytest.approx(math.sqrt(2 / 3), abs=1e-9), 1.0),  # logs 1, -1, 0
        "same": (3, pytest.approx(log(6), abs=1e-9), 1e-6, 1.0),
        "nothing": (0, 0.0, 1.0, 1.0),
        "shop": (3, None, None, pytest.approx(-(2 / 3) * log(2 / 3) - (1 / 3) * log(1 / 3), abs=1e-9)),
        "labels": (2, None, None, pytest.approx(2 * log(2), abs=1e-9)),  # a: sure; b and unknown: one of two each
    }


def test_an_attribute_that_hardly_varies_has_a_constant_loss_of_a_tenth(spark: SparkSession) -> None:
    table = local_frame(spark, [("one", None), ("one", None)], "shop string, nothing string")
    counts = value_counts(table, categorical=["shop", "nothing"], sets=[])
    vocabulary = local_frame(spark, [("shop", "one", 3, 2)], VOCABULARY_DDL)

    fitted = categorical_scaling(table, counts, vocabulary, categorical=["shop", "nothing"], sets=[]).collect()

    assert {row["attribute"]: (row["count"], row["constant_loss"]) for row in fitted} == {
        "shop": (2, 0.1),
        "nothing": (0, 0.1),
    }
