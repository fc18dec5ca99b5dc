"""What the new events are made of, counted from sequences that were written by hand."""

from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.manifest import CategoricalAttribute, Layout, SetAttribute
from caspr_spark.monitor.profile import clustered_counts, named_values, new_values, segments
from caspr_spark.monitor.records import profile_numbers, sketch_of
from caspr_spark.session import local_frame

NAN = float("nan")
SINCE = datetime(2024, 1, 10, tzinfo=UTC)
LAYOUT = Layout(
    max_events=3,
    categorical=(CategoricalAttribute(name="page", num_ids=9), CategoricalAttribute(name="hour", num_ids=9)),
    sets=(SetAttribute(name="topics", num_ids=9, max_values=2),),
    numerical=("spend",),
    profile_categorical=(CategoricalAttribute(name="region", num_ids=9),),
    profile_numerical=("age",),
)
OLD, EDGE, NEW = (round((SINCE + timedelta(hours=h)).timestamp() * 1_000_000) for h in (-1, 0, 5))


@pytest.fixture(scope="module")
def values(spark: SparkSession) -> DataFrame:
    rows = [
        # times; page, hour of three events; two topics each; spend; region; age
        ("ann", 3, [OLD, EDGE, NEW], [7, 3, 3, 3, 1, 3], [7, 0, 3, 4, 0, 0], [9.0, 0.0, -5.0], [3], [40.0]),
        ("bob", 2, [NEW, NEW, 0], [3, 3, 0, 3, 0, 0], [1, 0, 4, 0, 0, 0], [100.0, NAN, 0.0], [1], [NAN]),
        ("cid", 1, [OLD, 0, 0], [7, 3, 0, 0, 0, 0], [7, 0, 0, 0, 0, 0], [9.0, 0.0, 0.0], [0], [40.0]),
    ]
    columns = (
        "customer_id string, num_events int, event_times array<bigint>, categorical array<int>, sets array<int>, "
        "numerical array<float>, profile_categorical array<int>, profile_numerical array<float>"
    )
    return new_values(local_frame(spark, rows, columns), LAYOUT, since_micros=EDGE, left_out=["hour"])


def counted(values: DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in clustered_counts(values).collect():
        found.setdefault((row["measure"], row["name"]), {})[row["bin"]] = row["value"]
    return found


def test_f40_values_unknown_and_missing_of_the_new_events_and_the_profiles(values: DataFrame) -> None:
    found = counted(values)
    # ann's new pages: 3, unknown; bob's: 3, missing. cid has no new event.
    assert found["value", "page"] == {"3": 2}
    assert found["known", "page"] == {"known": 2, "unknown": 1}
    assert found["present", "page"] == {"present": 3, "missing": 1}
    # a set counts each of its values; it is missing where it is empty
    assert found["value", "topics"] == {"3": 1, "4": 2}
    assert found["known", "topics"] == {"known": 3, "unknown": 1}
    assert found["present", "topics"] == {"present": 3, "missing": 1}
    assert found["present", "spend"] == {"present": 3, "missing": 1}
    # 0; -4 log 6 = -7.17; 4 log 101 = 18.46
    assert found["number", "spend"] == {"0": 1, "-8": 1, "18": 1}
    assert found["known", "region"] == {"known": 1, "unknown": 1}
    assert found["present", "region"] == {"present": 2, "missing": 1}
    assert found["number", "age"] == {"14": 2}
    assert not [name for _, name in found if name == "hour"]


def test_customers_who_keep_to_a_value_are_told_from_those_who_mix(spark: SparkSession) -> None:
    kept = [("value", "page", "3", "ann", 4), ("value", "page", "4", "bob", 4)]
    mixed = [("known", "page", name, customer, 2) for name in ("known", "unknown") for customer in ("ann", "bob")]
    rows = [*kept, *mixed, ("known", "page", "known", "cid", 1)]
    columns = "measure string, name string, bin string, customer_id string, times bigint"
    found = {tuple(row)[:3]: tuple(row)[3:] for row in clustered_counts(local_frame(spark, rows, columns)).collect()}
    # half of 8 values, two customers of 4: (4 - 2)² + (0 - 2)², and (4 + 4)² / (4² + 4²)
    assert found["value", "page", "3"] == pytest.approx((4, 8, 2))
    # 4 of 9 are unknown: twice (2 - 16/9)², once (4/9)²; 81 / 33 customers
    assert found["known", "page", "unknown"] == pytest.approx((4, 2 * (2 / 9) ** 2 + (4 / 9) ** 2, 81 / 33))


def test_values_have_their_names_and_make_segments(spark: SparkSession, values: DataFrame) -> None:
    words = [("page", "home", 3), ("topics", "rent", 3), ("topics", "tax", 4), ("region", "north", 3)]
    vocabulary = local_frame(spark, words, "attribute string, value string, id int")
    rows = profile_numbers(named_values(clustered_counts(values), vocabulary).collect())
    sketch = sketch_of("r1", SINCE, "refresh", profile=rows, drift=[])
    assert sketch.shares["value", "topics"].bins == {"rent": 1, "tax": 2}
    assert sketch.shares["known", "page"].bins == {"known": 2, "unknown": 1}
    assert sketch.numbers["spend"].bins == {"0": 1, "-8": 1, "18": 1}
    told = segments(values, vocabulary, attributes=["region", "topics"]).collect()
    expected = {("ann", "region=north"), ("ann", "topics=rent"), ("ann", "topics=tax"), ("bob", "topics=tax")}
    assert {tuple(row) for row in told} == expected


def test_only_the_most_frequent_values_are_kept(spark: SparkSession) -> None:
    rows = [("value", "page", str(number), "ann", 1 + number % 7) for number in range(130)]
    columns = "measure string, name string, bin string, customer_id string, times bigint"
    found = clustered_counts(local_frame(spark, rows, columns)).collect()
    assert len(found) == 100
    assert min(row["value"] for row in found) == 2  # 19 values occur once, 11 of those that occur twice are left out
