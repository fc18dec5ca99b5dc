"""A vocabulary that grows keeps every id; a model made before sees what it would have seen with its own."""

from random import Random
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.manifest import CategoricalAttribute, Layout, SetAttribute
from caspr_spark.sequences.assemble import with_ids
from caspr_spark.sequences.known import known_to
from caspr_spark.sequences.vocabulary import grown_vocabulary, vocabulary_sizes
from caspr_spark.session import local_frame
from caspr_spark.tables import empty_table
from schemas.vocabulary import UNKNOWN_ID, VOCABULARY

PAGES, COUNTS = [f"p{number:02}" for number in range(40)], "attribute string, value string, num_occurrences bigint"


def layout(pages: int, shops: int, tags: int, regions: int) -> Layout:
    return Layout(
        max_events=3,
        categorical=(
            CategoricalAttribute(name="page", num_ids=pages),
            CategoricalAttribute(name="shop", num_ids=shops),
        ),
        sets=(
            SetAttribute(name="tags", num_ids=tags, max_values=2),
            SetAttribute(name="more", num_ids=5, max_values=1),
        ),
        numerical=("amount",),
        profile_categorical=(CategoricalAttribute(name="region", num_ids=regions),),
        profile_numerical=(),
    )


def test_ids_beyond_a_models_own_are_unknown_to_it_and_nothing_else_changes(spark: SparkSession) -> None:
    columns = "customer_id string, categorical array<int>, sets array<int>, numerical array<float>, "
    columns += "profile_categorical array<int>"
    numbers = [1.0, 2.0, 0.0]
    # three events of (page, shop), of (two tags, one more); the last is padding
    rows = [("ann", [4, 6, 7, 3, 0, 0], [5, 6, 4, 3, 0, 4, 0, 0, 0], numbers, [9])]
    before, now = layout(pages=5, shops=4, tags=6, regions=9), layout(pages=9, shops=7, tags=9, regions=12)
    sequences = local_frame(spark, rows, columns)
    found = known_to(sequences, now, before).collect()
    assert [tuple(row) for row in found] == [("ann", [4, 1, 1, 3, 0, 0], [5, 1, 4, 3, 0, 4, 0, 0, 0], numbers, [1])]
    assert known_to(sequences, now, now) is sequences


def test_f71_ids_never_change_their_meaning_however_often_the_vocabulary_grows(spark: SparkSession) -> None:
    random, vocabulary = Random(5), empty_table(spark, VOCABULARY)
    events = local_frame(spark, [(page,) for page in [*PAGES, "never", None]], "page string")
    earlier: list[tuple[dict[str, int], dict[str, int]]] = []
    for _ in range(4):
        seen = random.sample(PAGES, 12)
        counts = local_frame(spark, [("page", page, random.randrange(1, 4)) for page in seen], COUNTS)
        vocabulary = grown_vocabulary(vocabulary, counts, min_count=2)
        vocabulary = spark.createDataFrame(vocabulary.collect(), vocabulary.schema)
        ids: dict[str, int] = {row["value"]: row["id"] for row in vocabulary.collect()}
        assert len(set(ids.values())) == len(ids)
        for known, sizes in earlier:
            assert ids | known == ids
            assert {page for page, number in ids.items() if number < sizes["page"]} == set(known)
        earlier.append((ids, vocabulary_sizes(vocabulary)))
    assert len({len(known) for known, _ in earlier}) > 1

    def of(rows: Any) -> list[int]:
        return [row["page"] for row in rows.collect()]

    present = of(with_ids(events, vocabulary, attributes=["page"]))
    for known, sizes in earlier:
        own = vocabulary.where(F.col("value").isin(list(known)))
        assert [UNKNOWN_ID if number >= sizes["page"] else number for number in present] == of(
            with_ids(events, own, attributes=["page"])
        )
