"""Encoders that never saw the test customers: who is left out, and that nothing of them reaches the weights."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from caspr_spark.evaluate.experiment import EMBEDDING, RFM, UNSEEN, paired_scores, random_splits
from caspr_spark.evaluate.questions import YES_OR_NO
from caspr_spark.manifest import write_manifest
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.pretrain import launch
from caspr_spark.pretrain.job import EpochRecord, LeftOut
from caspr_spark.pretrain.objectives import folds_of
from caspr_spark.registry import checkpoint_folder
from tests.pretrain.planted import FUTURE, FilePlan, model_section, planted_rows, pretrain_section, write_planted

PLANS = [FilePlan("training", (60, 40)), FilePlan("validation", (20,))]
NUM_CUSTOMERS = 120
SEED, FOLD = 3, LeftOut(fold=1, num_folds=4)
FOLDS = folds_of(planted_rows(NUM_CUSTOMERS)["customer_key"], num_folds=FOLD.num_folds, seed=SEED)


def weights_without_the_fold(folder: Path, root: Path) -> tuple[dict[str, torch.Tensor], list[EpochRecord]]:
    records: list[EpochRecord] = []
    version = launch.pretrain(
        folder,
        model=model_section(**FUTURE),
        pretrain=pretrain_section(max_epochs=2),
        seed=SEED,
        root=root,
        left_out=FOLD,
        progress=records.append,
    )
    return load_checkpoint(checkpoint_folder(root, version)).weights, records


def test_what_the_left_out_customers_did_reaches_no_weight(tmp_path: Path) -> None:
    rows = planted_rows(NUM_CUSTOMERS)
    manifest, is_left_out = write_planted(tmp_path / "sequences", PLANS, rows=rows), FOLD.fold == FOLDS
    changed = {name: values.copy() for name, values in rows.items()}
    changed["numerical"][is_left_out] = 7.0
    changed["num_events"][is_left_out] = 1
    of_changed = write_planted(tmp_path / "changed", PLANS, rows=changed)
    write_manifest(of_changed.model_copy(update={"scaling": manifest.scaling}), tmp_path / "changed")

    weights, records = weights_without_the_fold(tmp_path / "sequences", tmp_path / "one")
    others, _ = weights_without_the_fold(tmp_path / "changed", tmp_path / "two")

    assert [record.rows for record in records] == [int((~is_left_out[:100]).sum())] * 2
    assert all(torch.equal(others[name], tensor) for name, tensor in weights.items())


def test_everybody_is_in_one_fold_of_about_the_same_size() -> None:
    folds = folds_of(np.arange(4000), num_folds=5, seed=1)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3, 4]
    assert all(700 < (folds == fold).sum() < 900 for fold in range(5))
    assert not np.array_equal(folds, folds_of(np.arange(4000), num_folds=5, seed=2))


def test_folds_are_the_test_customers_by_turns() -> None:
    labels, folds = (np.arange(100) % 4 == 0).astype(float), np.arange(100) % 5
    shares = {"test_share": 0.2, "validation_share": 0.2}
    splits = list(random_splits(labels, num_splits=7, seed=1, folds=folds, **shares))  # type: ignore[arg-type]
    for number, split in enumerate(splits):
        assert split.test.tolist() == np.flatnonzero(folds == number % 5).tolist()
        assert len(split.validation) == 20
        assert sorted(np.concatenate(split).tolist()) == list(range(100))
    assert not np.array_equal(splits[0].training, splits[5].training)


def test_a_split_is_scored_with_the_vectors_of_its_fold() -> None:
    """Those of fold 0 know the label, those of fold 1 know nothing."""
    random = np.random.default_rng(4)
    labels, folds = (np.arange(400) % 3 == 0).astype(float), np.arange(400) % 2
    noise, telling = random.normal(size=(400, 3)), (labels + 0.1 * random.normal(size=400))[:, None]
    features = {RFM: noise, EMBEDDING: noise, UNSEEN: (telling, noise)}
    scores = paired_scores(
        features,
        labels,
        rule=labels,
        question=YES_OR_NO,
        num_splits=4,
        test_share=0.2,
        validation_share=0.2,
        seed=1,
        folds=folds,
    ).scores
    found: pd.Series = scores[(scores["arm"] == UNSEEN) & (scores["metric"] == "auroc")].set_index("split")["value"]
    assert found[[0, 2]].min() > 0.95
    assert found[[1, 3]].max() < 0.7


@pytest.mark.parametrize("seed", [1, 2])
def test_the_fold_of_a_customer_depends_on_nobody_else(seed: int) -> None:
    keys = np.array([5, 17, 900])
    alone = [folds_of(keys[place : place + 1], num_folds=3, seed=seed)[0] for place in range(3)]
    assert folds_of(keys, num_folds=3, seed=seed).tolist() == alone
