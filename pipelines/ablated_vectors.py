"""Vectors of the same customers and model with something taken out: further arms of the evaluation."""

import os
from typing import Any

import numpy as np
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.evaluate.heads import Array
from caspr_spark.model.ablations import evenly_spaced, newest, profiles_hidden, shuffled, untrained, without_source
from caspr_spark.model.batch import Columns
from caspr_spark.model.checkpoint import Checkpoint
from caspr_spark.model.scoring import encode, network_of
from caspr_spark.model.values import SOURCE
from caspr_spark.tables import read_table
from pipelines.stored_sequences import StoredSequences
from schemas.vocabulary import VOCABULARY

LENGTHS = (16, 64)
PROFILES_HIDDEN = "profiles_hidden"


def ablated_vectors(
    spark: SparkSession, config: Config, checkpoint: Checkpoint, stored: StoredSequences, *, has_profiles: bool
) -> dict[str, Array]:
    """Arm -> vectors of the customers of `stored`, in their order; zeros for one of whom nothing is left.

    order_shuffled, time_removed, newest_16, newest_64, without_<source>, random_weights and, where they are still in
    the sequences (`has_profiles`), profiles_hidden.
    """
    layout, (columns, as_of_us) = checkpoint.model.layout, stored
    kinds: dict[str, dict[str, Any]] = {
        "order_shuffled": shuffled(columns, layout, seed=config.seed),
        "time_removed": evenly_spaced(columns, layout, as_of_us=as_of_us),
    }
    kinds |= {f"newest_{length}": newest(columns, layout, num_events=length) for length in LENGTHS}
    ids = _source_ids(spark, config)
    if len(ids) > 1:
        kinds |= {f"without_{name}": without_source(columns, layout, source_id=ids[name]) for name in sorted(ids)}
    if has_profiles and (layout.profile_categorical or layout.profile_numerical):
        kinds[PROFILES_HIDDEN] = profiles_hidden(columns)
    encoder = network_of(checkpoint).encoder
    found = {arm: _encoded(encoder, changed, layout, as_of_us) for arm, changed in kinds.items()}
    random = untrained(checkpoint, seed=config.seed).encoder
    return found | {"random_weights": _encoded(random, columns, layout, as_of_us)}


def encoded(checkpoint: Checkpoint, stored: StoredSequences) -> Array:
    """float64 [C, E]: the vectors of the customers of `stored`, in their order."""
    return _encoded(network_of(checkpoint).encoder, stored.columns, checkpoint.model.layout, stored.as_of_us)


def _encoded(encoder: Any, columns: Columns, layout: Any, as_of_us: int) -> Array:
    """float64 [B, E]; zeros where no event is left."""
    has_events_B = np.asarray(columns["num_events"]).reshape(-1) > 0
    vectors = np.zeros((len(has_events_B), encoder.embedding_size))
    left = {name: values[has_events_B] for name, values in columns.items()}
    if has_events_B.any():
        vectors[has_events_B] = encode(encoder, left, layout, as_of_us, threads=os.cpu_count() or 1)
    return vectors


def _source_ids(spark: SparkSession, config: Config) -> dict[str, int]:
    rows = read_table(spark, VOCABULARY, config.root).where(F.col("attribute") == SOURCE).collect()
    return {row["value"]: row["id"] for row in rows}
