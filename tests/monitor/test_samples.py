"""The report's small tables, from sequences that were written by hand."""

from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.manifest import CategoricalAttribute, Layout, SetAttribute
from caspr_spark.monitor.samples import daily_events, sampled_customers, typical_values
from caspr_spark.session import local_frame

AS_OF = datetime(2024, 1, 10, tzinfo=UTC)
NAN = float("nan")
LAYOUT = Layout(
    max_events=3,
    categorical=(CategoricalAttribute(name="page", num_ids=9), CategoricalAttribute(name="hour", num_ids=9)),
    sets=(SetAttribute(name="tags", num_ids=9, max_values=1), SetAttribute(name="topics", num_ids=9, max_values=2)),
    numerical=("fee", "spend"),
    profile_categorical=(),
    profile_numerical=(),
)


@pytest.fixture(scope="module")
def sequences(spark: SparkSession) -> DataFrame:
    """ann has two events, the last a day ago, bob one a week ago; id 1 is unknown, 0 nothing."""
    day, week = (round((AS_OF - timedelta(days=days)).timestamp() * 1_000_000) for days in (1, 7))
    rows = [
        ("ann", 2, [week, day, 0], [3, 5, 4, 5, 0, 0], [3, 3, 4, 3, 3, 1, 0, 0, 0], [9.0, 1.5, 9.0, NAN, 0.0, 0.0]),
        ("bob", 1, [week, 0, 0], [3, 5, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0, 0, 0, 0], [9.0, -2.0, 0.0, 0.0, 0.0, 0.0]),
    ]
    columns = (
        "customer_id string, num_events int, event_times array<bigint>, categorical array<int>, sets array<int>, "
        "numerical array<float>"
    )
    return local_frame(spark, rows, columns)


def test_customers_are_described_by_their_sequences(spark: SparkSession, sequences: DataFrame) -> None:
    run = local_frame(
        spark, [("ann", [1.0]), ("bob", [2.0]), ("cid", [3.0])], "customer_id string, embedding array<float>"
    )
    found = sampled_customers(run, sequences, LAYOUT, money="spend", as_of=AS_OF, size=10).collect()
    assert {row["customer_id"]: tuple(row)[1:] for row in found} == {
        "ann": ([1.0], 2, 1.5, 1.0),
        "bob": ([2.0], 1, -2.0, 7.0),
    }
    assert {
        row["money"] for row in sampled_customers(run, sequences, LAYOUT, money=None, as_of=AS_OF, size=10).collect()
    } == {0}
    once, again = (
        sampled_customers(run, sequences, LAYOUT, money=None, as_of=AS_OF, size=1).select("customer_id").collect()
        for _ in range(2)
    )
    assert once == again


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        # ann: half home, half cart; of all, home is two of three
        ("page", [("ann", "cart", 1, 1), ("ann", "home", 1, 2), ("bob", "home", 1, 1)]),
        # the same ids mean something else in another attribute
        ("topics", [("ann", "rent", 2, 1), ("ann", "tax", 1, 2), ("bob", "tax", 1, 1)]),
    ],
)
def test_typical_is_what_others_go_for_less(
    spark: SparkSession, sequences: DataFrame, attribute: str, expected: list[tuple[str, str, int, int]]
) -> None:
    words = [("page", "home", 3), ("page", "cart", 4), ("topics", "rent", 3), ("topics", "tax", 4), ("tags", "x", 3)]
    vocabulary = local_frame(spark, words, "attribute string, value string, id int")
    customers = local_frame(spark, [("ann",), ("bob",)], "customer_id string")
    found = typical_values(sequences, LAYOUT, vocabulary, customers, attribute=attribute, num_values=2)
    assert sorted(tuple(row) for row in found.collect()) == sorted(expected)
    nothing = typical_values(sequences, LAYOUT, vocabulary, customers, attribute="younger_than_the_model", num_values=2)
    assert nothing.count() == 0
    first = typical_values(sequences, LAYOUT, vocabulary, customers.limit(1), attribute=attribute, num_values=1)
    assert first.count() == 1


def test_events_are_counted_by_source_and_day(spark: SparkSession) -> None:
    rows = [("visits", AS_OF), ("visits", AS_OF + timedelta(hours=23)), ("calls", AS_OF)]
    events = local_frame(spark, rows, "source string, event_time timestamp")
    found = {tuple(row) for row in daily_events(events).collect()}
    assert found == {("visits", AS_OF.date(), 2), ("calls", AS_OF.date(), 1)}
