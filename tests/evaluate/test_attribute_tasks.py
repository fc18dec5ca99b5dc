"""What profiles say, asked of vectors that do not know them: 400 planted customers and an untrained encoder."""

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.errors import CasprError
from caspr_spark.explore.probe import categorical_probe
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.model.ablations import profiles_hidden
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.scoring import load_encoder
from caspr_spark.registry import checkpoint_folder
from caspr_spark.session import local_frame
from caspr_spark.tables import write_table
from pipelines.ablated_vectors import PROFILES_HIDDEN, ablated_vectors, encoded
from pipelines.contracts import event_contract, profile_contract
from pipelines.evaluate_embeddings import evaluate_embeddings, task_score_table
from pipelines.stored_sequences import stored_sequences
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS
from schemas.vocabulary import VOCABULARY
from tests.embed.planted_root import planted_root
from tests.finetune.labelled import NUM_CUSTOMERS, PLANS, ROWS
from tests.pretrain.planted import AS_OF, AS_OF_US

CUSTOMERS = ROWS["customer_id"].tolist()
REGION_ID = ROWS["profile_categorical"][:, 0]
"""0: unknown."""
BEGAN_WITH = ROWS["categorical"].reshape(NUM_CUSTOMERS, -1, 2)[:, 0, 0]
"""The category of a customer's first event."""
OVERLAY = """
dataset: shop
root: {root}
sources:
  visits: {{format: csv, path: v.csv, entity: c, time: {{column: t}}, attributes: {{spend: {{kind: numerical}}}}}}
profiles:
  people:
    format: csv
    path: p.csv
    entity: c
    valid_from: {{column: since}}
    attributes: {{region: {{kind: categorical}}, age: {{kind: numerical}}}}
evaluate:
  num_splits: 3
  tasks:
    south: {{kind: attribute, source: visits, attribute: region, values: [r3, r4, r5], active_days: 28, money: spend}}
    age: {{kind: attribute, source: visits, attribute: age, active_days: 28, money: spend}}
"""


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Vectors that know the region; age is ten times what the customer's first event was."""
    folder = tmp_path_factory.mktemp("attributes")
    planted_root(folder / "root", PLANS)
    (folder / "shop.yaml").write_text(OVERLAY.format(root=folder / "root"))
    config = load_config([folder / "shop.yaml"])
    write_table(event_rows(spark), event_contract(config), config.root, made_from="raw")
    write_table(profile_rows(spark), profile_contract(config), config.root, made_from="raw")
    columns = "attribute string, value string, id int, num_occurrences bigint"
    write_table(local_frame(spark, [("source", "visits", 3, 9)], columns), VOCABULARY, config.root)
    rows = list(zip(CUSTOMERS, published_vectors(config).tolist(), strict=True))
    run = local_frame(spark, rows, "customer_id string, embedding array<float>").select(
        "*",
        F.lit(AS_OF).alias("as_of"),
        F.lit(AS_OF - timedelta(hours=1)).alias("last_event_time"),
        F.lit(2).alias("num_events"),
        F.lit(champion_of(config.root)).alias("model_version"),
        F.lit("run").alias("run_id"),
    )
    write_table(run, CUSTOMER_EMBEDDING_HISTORY, config.root, mode="append", once="run")
    write_table(run, EMBEDDINGS, config.root)
    return config


def event_rows(spark: SparkSession) -> Any:
    """One visit of everybody; those of customers 0 to 9 are too long ago. None is after the cut."""
    rows = [
        (customer, AS_OF - timedelta(days=40 if number < 10 else 3), f"visits:{number}", float(number % 7))
        for number, customer in enumerate(CUSTOMERS)
    ]
    return local_frame(spark, rows, "customer_id string, event_time timestamp, event_id string, spend double").select(
        "*",
        F.lit("visits").alias("source"),
        F.lit(None).cast("string").alias("session_id"),
        F.lit(1).cast("bigint").alias("num_raw_rows"),
        F.lit(0).cast("bigint").alias("num_values_cut"),
    )


def profile_rows(spark: SparkSession) -> Any:
    """What holds as of the cut, between two rows that are another region for everybody."""
    region = [f"r{number}" if number else None for number in REGION_ID]
    rows = []
    for customer, own, age in zip(CUSTOMERS, region, (10.0 * BEGAN_WITH).tolist(), strict=True):
        rows.append((customer, AS_OF - timedelta(days=9), None if own is None else "r1", 0.0))
        rows.append((customer, AS_OF - timedelta(seconds=1), own, age))
        rows.append((customer, AS_OF, "r1", 0.0))
    columns = "customer_id string, valid_from_time timestamp, region string, age double"
    return local_frame(spark, rows, columns).withColumn("profile", F.lit("people"))


def published_vectors(config: Config) -> Any:
    return load_encoder(checkpoint_folder(config.root, champion_of(config.root))).encode(ROWS, AS_OF_US)


def scores_of(spark: SparkSession, config: Config, task: str) -> "pd.Series[Any]":
    """By arm and metric: the mean over splits of the best head."""
    scores = task_score_table(spark, config, AS_OF)
    best = scores[(scores["task"] == task) & (scores["head"] == "best")]
    return best.groupby(["arm", "metric"])["value"].mean()


def test_an_attribute_of_the_profile_is_asked_of_vectors_that_do_not_hold_it(spark: SparkSession, shop: Config) -> None:
    """No task waits for labels: there is no event after the cut."""
    summary = evaluate_embeddings(spark, shop, AS_OF)
    assert summary.notes == ()
    num_with_region = int((REGION_ID[10:] > 0).sum())
    assert summary.rows_in == num_with_region + NUM_CUSTOMERS - 10

    south = scores_of(spark, shop, "south")
    assert south["rule", "auroc"] == 0.5
    assert south["embedding", "auroc"] < 0.6
    where = REGION_ID > 0
    is_south = np.where(REGION_ID[where] >= 3, "yes", "no").astype(object)
    (auroc, _) = categorical_probe({"published": published_vectors(shop)[where].astype(float)}, is_south, seed=1).scores
    assert auroc.by_features["published"][0] > 0.7
    positives = task_score_table(spark, shop, AS_OF).query("task == 'south' and metric == 'positive_share'")["value"]
    assert positives.mean() == pytest.approx((REGION_ID[10:] >= 3).sum() / num_with_region, abs=0.02)


def test_a_number_of_the_profile_is_guessed_against_its_mean(spark: SparkSession, shop: Config) -> None:
    evaluate_embeddings(spark, shop, AS_OF)
    age = scores_of(spark, shop, "age")
    assert set(age.index.get_level_values("metric")) >= {"rmse", "mae", "spearman"}
    assert "high_value_auroc" not in age.index.get_level_values("metric")
    assert age["rule", "rmse"] == pytest.approx(10 * BEGAN_WITH[10:].std(), rel=0.15)
    assert age["embedding", "rmse"] < 0.7 * age["rule", "rmse"]


def test_scores_are_made_again_when_the_profiles_change(spark: SparkSession, shop: Config) -> None:
    evaluate_embeddings(spark, shop, AS_OF)
    assert not evaluate_embeddings(spark, shop, AS_OF).changed
    write_table(profile_rows(spark), profile_contract(shop), shop.root, made_from="other raw")
    assert evaluate_embeddings(spark, shop, AS_OF).changed


def test_ablated_vectors_of_such_a_task_do_not_hold_profiles_either(spark: SparkSession, shop: Config) -> None:
    checkpoint = load_checkpoint(checkpoint_folder(shop.root, champion_of(shop.root)))
    stored = stored_sequences(shop, AS_OF, customers=CUSTOMERS[100:200], layout=checkpoint.model.layout)
    events_alone = stored._replace(columns=profiles_hidden(stored.columns))
    hidden = encoded(checkpoint, events_alone)
    assert not np.allclose(hidden, published_vectors(shop)[100:200], atol=1e-3)
    whole = ablated_vectors(spark, shop, checkpoint, stored, has_profiles=True)
    without = ablated_vectors(spark, shop, checkpoint, events_alone, has_profiles=False)
    assert whole.keys() - without.keys() == {PROFILES_HIDDEN}
    np.testing.assert_allclose(whole[PROFILES_HIDDEN], hidden, atol=1e-5)
    np.testing.assert_allclose(whole["newest_64"], published_vectors(shop)[100:200], atol=1e-5)  # nobody has more
    np.testing.assert_allclose(without["newest_64"], hidden, atol=1e-5)
    assert not np.allclose(whole["random_weights"], without["random_weights"], atol=1e-3)


def test_customers_without_a_sequence_are_an_error(shop: Config) -> None:
    layout = read_manifest(sequences_folder(shop.root, AS_OF)).layout
    with pytest.raises(CasprError, match="sequences of 2 customers who have a vector, 1 are not there"):
        stored_sequences(shop, AS_OF, customers=[CUSTOMERS[0], "gone"], layout=layout)
