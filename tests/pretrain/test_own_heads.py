"""What a model's own heads say of held-out customers, against a slow count; and when they are not believed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from caspr_spark.config import HeadsSection
from caspr_spark.manifest import read_manifest
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.scoring import encode, network_of
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.own_heads import HeadScore, failures, own_head_scores
from caspr_spark.registry import checkpoint_folder
from tests.pretrain.planted import (
    AS_OF_US,
    DAY_US,
    FUTURE,
    FilePlan,
    model_section,
    planted_rows,
    pretrain_section,
    write_planted,
)

SECTION = HeadsSection(min_customers=20, least_auroc=0.5, largest_odds_ratio=4, on_fail="stop")
GOOD = HeadScore(source_id=3, horizon_days=28, customers=200, happened=100, predicted=104, predicted_error=6, auroc=0.8)


def test_scores_are_those_of_customers_whose_history_ends_at_the_cut(tmp_path: Path) -> None:
    folder = tmp_path / "sequences"
    write_planted(folder, [FilePlan("training", (80,)), FilePlan("validation", (40,))], seed=2)
    settings = pretrain_section(longest_horizon_days=26.0)
    version = pretrain(folder, model=model_section(**FUTURE), pretrain=settings, seed=3, root=tmp_path, progress=None)
    checkpoint = load_checkpoint(checkpoint_folder(tmp_path, version))
    network, layout = network_of(checkpoint).eval(), read_manifest(folder).layout
    rows = {name: values[80:] for name, values in planted_rows(120, seed=2).items()}

    scores = own_head_scores(folder, checkpoint_folder(tmp_path, version))

    assert [score.horizon_days for score in scores] == [2, 4, 8, 16, 26]
    for position, score in enumerate(scores):
        cut = AS_OF_US - round(score.horizon_days * DAY_US)
        guessed, happened = [], []
        for customer in range(40):
            one = {name: values[customer : customer + 1].copy() for name, values in rows.items()}
            times = one["event_times"][0, : one["num_events"][0]]
            if not (times < cut).any():
                continue
            one["num_events"][:] = (times < cut).sum()
            vector = torch.from_numpy(encode(network.encoder, one, layout, cut))
            assert network.future is not None
            with torch.inference_mode():
                log_odds = network.future(vector[None])[0].any_BKSH[0, 0, 0, position].item()
            guessed.append(1 / (1 + math.exp(-log_odds)))
            happened.append(bool((times >= cut).any()))
        assert (score.customers, score.happened) == (len(guessed), sum(happened))
        assert score.predicted == pytest.approx(sum(guessed), rel=1e-4)
        if score.auroc is not None:
            assert score.auroc == pytest.approx(roc_auc_score(happened, guessed), abs=0.01)
    assert any(score.auroc is not None for score in scores)
    assert json.loads(scores[0].model_dump_json())["source_id"] == 0


def test_a_model_without_such_heads_has_no_scores(tmp_path: Path) -> None:
    write_planted(tmp_path / "sequences", [FilePlan("training", (30,)), FilePlan("validation", (10,))])
    version = pretrain(
        tmp_path / "sequences",
        model=model_section(),
        pretrain=pretrain_section(max_epochs=1),
        seed=3,
        root=tmp_path,
        progress=None,
    )
    assert own_head_scores(tmp_path / "sequences", checkpoint_folder(tmp_path, version)) == ()


def test_heads_that_rank_or_expect_as_they_should_pass() -> None:
    assert failures((GOOD,), SECTION, {3: "purchases"}) == []


def test_heads_that_rank_worse_than_chance_are_named() -> None:
    bad = GOOD.model_copy(update={"auroc": 0.31})
    assert failures((GOOD, bad), SECTION, {3: "purchases"}) == [
        "purchases within 28 days, 200 held-out customers: the model's own guess ranks them with an AUROC of 0.310 "
        "(chance is 0.5)"
    ]


def test_heads_that_expect_far_too_many_are_named() -> None:
    few = GOOD.model_copy(update={"happened": 30, "predicted": 150.0})
    assert failures((few,), SECTION, {}) == [
        "source 3 within 28 days, 200 held-out customers: the model expects 150, 30 came"
    ]


def test_what_chance_explains_fails_nothing() -> None:
    """Of 200 customers, half and half, the standard error of an AUROC is 0.041: 0.39 is within three, 0.37 is not."""
    assert GOOD.auroc_error == pytest.approx(0.041, abs=0.001)
    near = GOOD.model_copy(update={"auroc": 0.39})
    far = GOOD.model_copy(update={"auroc": 0.37})
    small = far.model_copy(update={"customers": 118})
    uncertain = GOOD.model_copy(update={"happened": 30, "predicted": 150.0, "predicted_error": 50.0})
    slight = GOOD.model_copy(update={"happened": 100, "predicted": 150.0})
    assert failures((near, small, uncertain, slight), SECTION, {}) == []
    assert len(failures((far,), SECTION, {})) == 1
    assert np.isclose(slight.odds_ratio, (150.5 / 50.5) / (100.5 / 100.5))
