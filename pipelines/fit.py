"""What a model is trained on beside the sequences: the vocabulary and the scaling, fitted to the training customers."""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.disk import kept_on_disk
from caspr_spark.errors import UnsafeError
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import CategoricalAttribute, Fit, Layout, Scaling, SetAttribute
from caspr_spark.sequences.vocabulary import (
    categorical_scaling,
    grown_vocabulary,
    numerical_scaling,
    value_counts,
    vocabulary_hash,
    vocabulary_sizes,
)
from caspr_spark.tables import empty_table, last_commit_notes, read_table, table_exists, write_table
from schemas.vocabulary import FIRST_VALUE_ID, SCALING, VOCABULARY


def write_fit(spark: SparkSession, config: Config, *, events: DataFrame, profiles: DataFrame, made_from: str) -> None:
    """Grow the vocabulary and fit the scaling to the training customers' visible EVENTS (with calendar parts) and
    profiles. An id never changes its meaning; the scaling's commit ends the fit."""
    names = _names(config)
    with kept_on_disk() as keep:
        counts = keep(
            value_counts(events, categorical=names["categorical"], sets=names["sets"]).unionAll(
                value_counts(profiles, categorical=names["profile_categorical"], sets=[])
            )
        )
        exists = table_exists(spark, VOCABULARY, config.root)
        known = read_table(spark, VOCABULARY, config.root) if exists else empty_table(spark, VOCABULARY)
        grown = grown_vocabulary(known, counts, min_count=config.sequences.min_count)
        write_table(grown, VOCABULARY, config.root, made_from=made_from)
        vocabulary = read_table(spark, VOCABULARY, config.root)
        scaling = keep(
            numerical_scaling(events, numerical=names["numerical"])
            .unionAll(numerical_scaling(profiles, numerical=names["profile_numerical"]))
            .unionAll(
                categorical_scaling(events, counts, vocabulary, categorical=names["categorical"], sets=names["sets"])
            )
            .unionAll(
                categorical_scaling(profiles, counts, vocabulary, categorical=names["profile_categorical"], sets=[])
            )
        )
        before = last_commit_notes(spark, SCALING, config.root).get("numbers", {}) if exists else {}
        version = _version(vocabulary, scaling.collect())
        older = [before["vocabulary_version"], *before["grown_from"]] if before else []
        numbers = {
            "vocabulary_version": version,
            "grown_from": [one for one in older if one != version],
            "num_ids": vocabulary_sizes(vocabulary),
            "inputs": made_from,
        }
        write_table(scaling, SCALING, config.root, made_from=made_from, numbers=numbers)


def present_fit(spark: SparkSession, config: Config) -> tuple[DataFrame, Fit]:
    """The vocabulary, and what it and the scaling make of events.

    The scaling's commit ends a fit: ids that an interrupted one has added to the vocabulary are left out.

    Raises:
        UnsafeError: the vocabulary or the scaling is not what was fitted.
    """
    notes = last_commit_notes(spark, SCALING, config.root).get("numbers", {})
    num_ids = notes.get("num_ids", {})
    limit = F.coalesce(*[F.when(F.col("attribute") == name, size) for name, size in num_ids.items()], F.lit(0))
    vocabulary = read_table(spark, VOCABULARY, config.root).where(F.col("id") < limit)
    rows = read_table(spark, SCALING, config.root).collect()
    if _version(vocabulary, rows) != notes.get("vocabulary_version"):
        raise UnsafeError(
            f"{config.root}: the tables 'vocabulary' and 'scaling' are not those that were fitted together; restore "
            "them, or run build_sequences --fit-vocabulary and pretrain again"
        )
    scaling = {row["attribute"]: Scaling(**{k: v for k, v in row.asDict().items() if k != "attribute"}) for row in rows}
    fit = Fit(
        layout=_layout(config, num_ids),
        vocabulary_version=notes["vocabulary_version"],
        grown_from=tuple(notes["grown_from"]),
        scaling=scaling,
    )
    return vocabulary, fit


def _version(vocabulary: DataFrame, scaling: Sequence[Row]) -> str:
    """Content hash of both."""
    return fingerprint(vocabulary=vocabulary_hash(vocabulary), scaling=sorted(tuple(row) for row in scaling))


def _names(config: Config) -> dict[str, list[str]]:
    """Attribute names by the array they go to. The source and the calendar parts are categorical attributes too."""

    def of_kind(attributes: dict[str, Any], kind: str) -> list[str]:
        return [name for name, attribute in attributes.items() if attribute.kind == kind]

    return {
        "categorical": ["source", *config.sequences.time_parts, *of_kind(config.event_attributes, "categorical")],
        "sets": of_kind(config.event_attributes, "set"),
        "numerical": of_kind(config.event_attributes, "numerical"),
        "profile_categorical": of_kind(config.profile_attributes, "categorical"),
        "profile_numerical": of_kind(config.profile_attributes, "numerical"),
    }


def _layout(config: Config, sizes: dict[str, int]) -> Layout:
    names = _names(config)

    def categorical(attributes: list[str]) -> tuple[CategoricalAttribute, ...]:
        return tuple(CategoricalAttribute(name=name, num_ids=sizes.get(name, FIRST_VALUE_ID)) for name in attributes)

    return Layout(
        max_events=config.sequences.max_events,
        categorical=categorical(names["categorical"]),
        sets=tuple(
            SetAttribute(
                name=name,
                num_ids=sizes.get(name, FIRST_VALUE_ID),
                max_values=config.event_attributes[name].max_values or 1,
            )
            for name in names["sets"]
        ),
        numerical=tuple(names["numerical"]),
        profile_categorical=categorical(names["profile_categorical"]),
        profile_numerical=tuple(names["profile_numerical"]),
    )
