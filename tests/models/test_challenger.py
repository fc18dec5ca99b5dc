"""From raw tables to readers with two models: retrained on a grown vocabulary, scored side by side, one damaged."""

import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of, read_aliases
from caspr_spark.config import Config
from caspr_spark.errors import UnsafeError
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.registry import checkpoint_folder, read_card
from caspr_spark.tables import read_table, table_path
from pipelines import fit
from pipelines.full_build import full_build
from pipelines.latest_vectors import latest_table
from pipelines.models import roll_back, set_champion
from pipelines.plan_refresh import plan_refresh
from pipelines.refresh import refresh
from pipelines.retrain import retrain
from pipelines.summary import Summary
from schemas.drift_metrics import DRIFT_METRICS
from schemas.runs import RUNS
from schemas.vocabulary import SCALING, VOCABULARY
from tests.refresh.full_builds import FullBuilds, Rows
from tests.refresh.test_refresh import FIRST, SECTIONS
from tests.refresh.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
DAY = timedelta(days=1)


def ids(spark: SparkSession, config: Config) -> dict[tuple[str, str], int]:
    table = read_table(spark, VOCABULARY, config.root).collect()
    return {(row["attribute"], row["value"]): row["id"] for row in table}


def latest(spark: SparkSession, config: Config, model: str) -> dict[str, tuple[int, list[float]]]:
    """Customer -> as_of in seconds and vector, all of them by this model."""
    rows = read_table(spark, latest_table(config.root, model), config.root)
    found = rows.select("*", F.unix_seconds("as_of").alias("seconds")).collect()
    assert {row["model_version"] for row in found} == {model}
    return {row["customer_id"]: (row["seconds"], row["embedding"]) for row in found}


def new_page(world: World) -> None:
    """Views of a page that was never there before."""
    for number in range(6):
        time = FIRST - timedelta(hours=number)
        world.views.append(json.dumps({"who": f"c{number % 3}", "ts": time.isoformat(), "page": "investments"}))
    world._write("views", "json", "\n".join(world.views[-6:]))


def steps(summaries: Sequence[Summary]) -> list[str]:
    return [summary.step for summary in summaries]


def runs_of(spark: SparkSession, config: Config, model: str) -> list[tuple[Any, ...]]:
    """Day of the as_of and kind, oldest first."""
    rows = read_table(spark, RUNS, config.root).where(F.col("model_version") == model).orderBy("as_of")
    return [tuple(row) for row in rows.select(F.day("as_of"), "kind").collect()]


class KilledError(Exception):
    """In the place of a SIGKILL."""


def test_f17_f71_f72_a_challenger_from_its_training_to_the_switch_and_back(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(spark, tmp_path, seed=3, **SECTIONS)
    config = world.config()
    full_build(spark, config, [FIRST])
    m1 = champion_of(config.root)
    card = read_card(config.root, m1)
    assert card is not None
    assert card.parent is None
    assert card.customers + card.validation_customers == read_manifest(sequences_folder(config.root, FIRST)).rows
    first_ids = ids(spark, config)
    own = tmp_path / "as_m1_was_trained"
    for contract in (VOCABULARY, SCALING):
        shutil.copytree(table_path(contract, config.root), own / contract.name)

    # A retraining is killed after it grew the vocabulary: the champion's refresh goes on.
    new_page(world)
    refresh(spark, config, FIRST + DAY)
    plain = fit.write_table

    def killed_at_scaling(table: DataFrame, contract: Any, *arguments: Any, **settings: Any) -> None:
        if contract == SCALING:
            raise KilledError
        plain(table, contract, *arguments, **settings)

    monkeypatch.setattr(fit, "write_table", killed_at_scaling)
    with pytest.raises(KilledError):
        retrain(spark, config, FIRST + 2 * DAY)
    monkeypatch.undo()
    grown_ids = ids(spark, config)
    assert ("page", "investments") in grown_ids.keys() - first_ids.keys()
    assert grown_ids | first_ids == grown_ids
    world.new_views()
    assert steps(refresh(spark, config, FIRST + 2 * DAY))[-1] == "monitor"

    # Retrained: a challenger, which readers do not see.
    before = latest(spark, config, m1)
    built = retrain(spark, config, FIRST + 3 * DAY)
    served = ["embed", "publish", "monitor"]
    assert steps(built) == ["sequences", *served, "pretrain", *served, "report"]
    present_ids = ids(spark, config)
    assert present_ids | grown_ids == present_ids
    m2 = read_aliases(config.root).challenger
    assert m2 is not None
    assert champion_of(config.root) == m1 != m2
    assert latest(spark, config, m2).keys() == before.keys() == latest(spark, config, m1).keys()
    assert (card := read_card(config.root, m2)) is not None
    assert card.parent == m1
    assert not any(summary.changed for summary in retrain(spark, config, FIRST + 3 * DAY))

    # Both are refreshed; the champion's vectors are what its own vocabulary, from before it grew, gives.
    world.new_orders()
    new_page(world)
    fourth = FIRST + 4 * DAY
    plan = plan_refresh(spark, config, fourth)
    assert steps(refresh(spark, config, fourth)) == ["events", "sequences", *served, *served]
    manifest = read_manifest(sequences_folder(config.root, fourth))
    assert set(manifest.previous_runs) == {m1, m2}
    assert plan.rows_out > 0
    for model, tables in ((m1, own), (m2, Path(config.root))):
        other = tmp_path / f"oracle_{model}"
        wanted = oracle(spark, config, tables, model, fourth, other)
        vectors = latest(spark, config, model).items()
        found = {customer: vector for customer, (seconds, vector) in vectors if seconds == fourth.timestamp()}
        assert found
        for customer, vector in found.items():
            np.testing.assert_allclose(vector, wanted[customer]["embedding"], atol=1e-5, err_msg=f"{model} {customer}")
    drift = read_table(spark, DRIFT_METRICS, config.root).select("run_id", "model_version").distinct().collect()
    assert len(drift) == len({row["run_id"] for row in drift})

    # A bit of the challenger flips: the champion goes on, and the command will end with the refusal.
    weights = checkpoint_folder(config.root, m2) / "weights.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    world.new_payments()
    fifth = FIRST + 5 * DAY
    hurt = refresh(spark, config, fifth)
    assert steps(hurt) == ["events", "challenger", "sequences", *served]
    (problem,) = [summary.problem for summary in hurt if summary.problem]
    assert isinstance(problem, UnsafeError)
    assert "weights.safetensors: expected sha256" in str(problem)
    assert runs_of(spark, config, m1)[-1][0] == fifth.day
    assert runs_of(spark, config, m2)[-1][0] == fourth.day
    with pytest.raises(UnsafeError):
        set_champion(spark, config, m2)

    # Restored, it catches up on what it missed; the champion, which missed nothing, is not scored again.
    weights.write_bytes(sound)
    assert steps(refresh(spark, config, fifth)) == ["events", "sequences", *served]
    assert runs_of(spark, config, m2)[-1][0] == fifth.day
    assert {c for c, (s, _) in latest(spark, config, m2).items() if s == fifth.timestamp()} >= {
        c for c, (s, _) in latest(spark, config, m1).items() if s == fifth.timestamp()
    }

    # Switched, refreshed, and taken back.
    before = latest(spark, config, m2)
    set_champion(spark, config, m2)
    assert latest(spark, config, m2) == before
    world.new_views()
    refresh(spark, config, FIRST + 6 * DAY)
    roll_back(spark, config)
    assert champion_of(config.root) == m1
    assert max(seconds for seconds, _ in latest(spark, config, m1).values()) == (FIRST + 6 * DAY).timestamp()


def oracle(spark: SparkSession, config: Config, tables: Path, model: str, as_of: Any, folder: Path) -> Rows:
    """Every customer's vector by a model as of a time, from all raw rows and the vocabulary in `tables`."""
    lone = folder / "root"
    shutil.copytree(tables / VOCABULARY.name, lone / VOCABULARY.name)
    shutil.copytree(tables / SCALING.name, lone / SCALING.name)
    shutil.copytree(checkpoint_folder(config.root, model), checkpoint_folder(lone, model))
    (lone / "checkpoints" / "aliases.json").write_text(json.dumps({"champion": model}))
    return FullBuilds(spark, config.model_copy(update={"root": str(lone)}), folder / "built").vectors(as_of)
