"""What stands on the page of an exploration, found in the tables: segments, look-alikes, probes of profiles."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.evaluate.rfm import rfm_features
from caspr_spark.explore.activity import measure_contrasts, value_contrasts
from caspr_spark.explore.lookalikes import lookalikes, mean_direction, similarities
from caspr_spark.explore.page import Contrast, Lookalike, Lookalikes, Segment, ValueContrast
from caspr_spark.explore.probe import Probed, categorical_probe, numerical_probe
from caspr_spark.registry import checkpoint_folder, read_model
from caspr_spark.session import local_frame
from caspr_spark.tables import read_table
from pipelines.contracts import event_contract
from pipelines.known_profiles import known_profiles

_MOST_PROBED = 5000
"""Customers whose profile is guessed."""
_NUM_CONTRASTS, _NUM_VALUES, _NUM_LOOKALIKES = 6, 5, 20
_VECTOR, _RFM = "vector", "rfm"


def described_segments(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    members: Sequence[tuple[str, int]],
    activity: DataFrame,
    *,
    measures: Sequence[str],
) -> list[Segment]:
    """Segments, the first one first. `members`: customer and segment; `activity`: columns `measures` of customers."""
    of_customers = local_frame(spark, members, "customer_id string, segment int")
    contrasts = measure_contrasts(activity, of_customers, measures=measures).toPandas()
    contrasts = contrasts.sort_values(
        ["deviations", "measure"], key=lambda x: -x.abs() if x.name == "deviations" else x
    )
    with_values: dict[str, Any] = {
        name: attribute.kind for name, attribute in config.event_attributes.items() if attribute.kind != "numerical"
    }
    values = pd.DataFrame(columns=["segment", "attribute", "value", "share", "share_of_all", "rank"])
    if with_values:
        events = read_table(spark, event_contract(config), config.root)
        found = value_contrasts(events, of_customers, as_of=as_of, attributes=with_values, num_values=_NUM_VALUES)
        values = found.toPandas().sort_values("rank")
    numbers, sizes = np.unique([segment for _, segment in members], return_counts=True)
    described = []
    for number, size in zip(numbers.tolist(), sizes.tolist(), strict=True):
        own, own_values = contrasts[contrasts["segment"] == number], values[values["segment"] == number]
        told = own[["measure", "mean", "mean_of_all", "deviations"]].head(_NUM_CONTRASTS)
        by_attribute = {name: own_values[own_values["attribute"] == name] for name in with_values}
        described.append(
            Segment(
                number=number,
                size=size,
                share=size / len(members),
                contrasts=[Contrast(*row) for row in told.itertuples(index=False, name=None)],
                values={
                    name: [
                        ValueContrast(*row)
                        for row in rows[["value", "share", "share_of_all"]].itertuples(index=False, name=None)
                    ]
                    for name, rows in by_attribute.items()
                    if len(rows)
                },
            )
        )
    return described


def found_lookalikes(
    spark: SparkSession, run: DataFrame, activity: DataFrame, customers: Sequence[str], *, measures: Sequence[str]
) -> Lookalikes:
    """The customers of the whole run that are most like those listed."""
    asked = local_frame(spark, [(customer,) for customer in customers], "customer_id string")
    listed = (
        run.join(F.broadcast(asked), on="customer_id", how="left_semi").select("customer_id", "embedding").toPandas()
    )
    unknown = sorted(set(customers) - set(listed["customer_id"]))
    vectors = [vector for vector in listed["embedding"] if vector is not None]
    direction = mean_direction(np.vstack(vectors).astype(float)) if vectors else None
    if direction is None:
        return Lookalikes(len(listed), unknown, measures, [], [])
    all_similar = similarities(run, direction)
    nearest = lookalikes(all_similar, asked, num=_NUM_LOOKALIKES)
    with_figures = nearest.join(activity, on="customer_id", how="left")
    rows = with_figures.orderBy(F.desc("similarity"), "customer_id").select("customer_id", "similarity", *measures)
    averages = [F.median("similarity").alias("similarity"), *[F.mean(name).alias(name) for name in measures]]
    of_all = all_similar.join(activity, on="customer_id", how="left")
    of_listed = of_all.join(F.broadcast(asked), on="customer_id", how="left_semi")
    references = [
        _lookalike([name, *row])
        for name, group in (("the listed", of_listed), ("everybody", of_all))
        for row in group.agg(*averages).collect()
    ]
    return Lookalikes(len(listed), unknown, measures, references, [_lookalike(row) for row in rows.collect()])


def _lookalike(row: Sequence[Any]) -> Lookalike:
    name, similarity, *figures = row
    return Lookalike(name, float(similarity), [float("nan") if one is None else float(one) for one in figures])


def profile_probes(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    customers: Sequence[str],
    vectors: Any,
    *,
    model_version: str,
) -> tuple[dict[str, tuple[Probed, bool]], list[str]]:
    """Profile attribute -> what was found and whether the model was given it; and the names of the features.

    `vectors`: customers × numbers, in the order of `customers`, of whom the first 5,000 are taken.
    """
    if not config.profile_attributes:
        return {}, [_VECTOR]
    probed = pd.DataFrame({"customer_id": customers[:_MOST_PROBED]})
    asked = local_frame(spark, [(customer,) for customer in probed["customer_id"]], "customer_id string")
    found = known_profiles(spark, config, as_of, customers=asked).toPandas()
    profiles = probed.merge(found, on="customer_id", how="left")
    features = {_VECTOR: vectors[: len(probed)]}
    money = config.report.money
    source = next((name for name, one in config.sources.items() if money in one.attributes), None)
    if money is not None and source is not None:
        events = read_table(spark, event_contract(config), config.root)
        own_events = events.join(F.broadcast(asked), on="customer_id", how="left_semi")
        hand_made = rfm_features(own_events, source=source, money=money, cut=as_of).toPandas()
        of_customers = probed.merge(hand_made, on="customer_id", how="left").drop(columns="customer_id")
        features[_RFM] = of_customers.to_numpy(dtype=float)
    layout = read_model(checkpoint_folder(config.root, model_version)).layout
    inputs = {*(one.name for one in layout.profile_categorical), *layout.profile_numerical}
    probes = {}
    for name, attribute in config.profile_attributes.items():
        values = profiles[name]
        if attribute.kind == "categorical":
            texts = values.astype(object).where(values.notna(), None).to_numpy()
            probe = categorical_probe(features, texts, seed=config.seed)
        else:
            probe = numerical_probe(features, values.to_numpy(dtype=float), seed=config.seed)
        probes[name] = (probe, name in inputs)
    return probes, list(features)
