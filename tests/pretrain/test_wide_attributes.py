"""A training on attributes of very many values learns, is the same on two workers, and goes on when killed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from caspr_spark.manifest import CategoricalAttribute, SetAttribute, read_manifest
from caspr_spark.model.batch import batch_of
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.features import LARGEST_DIMENSION
from caspr_spark.model.scoring import network_of
from caspr_spark.model.wide import LEAST_IDS
from caspr_spark.pretrain import start
from caspr_spark.pretrain.masked import masked_events
from caspr_spark.pretrain.reader import SequenceReader
from tests.pretrain.planted import (
    AS_OF_US,
    CONTRASTIVE,
    FUTURE,
    LABELS,
    NEXT_EVENT,
    NUM_CATEGORIES,
    REGION,
    SHOP,
    FilePlan,
    layout_of,
    planted_rows,
    write_planted,
)
from tests.pretrain.test_launch import trained, weights
from tests.pretrain.test_resume import killed_at
from tests.pretrain.test_trainer import DROPOUTS, current
from tests.pretrain.test_trainer import trained as trained_alone

PLANS = [FilePlan("training", (300, 200, 100)), FilePlan("validation", (150,))]
NUM_IDS = LEAST_IDS + 5_000
ONE_BATCH = {"batch_size": 600, "max_epochs": 4, "patience": 4}
MODELS: dict[str, dict[str, Any]] = {"masked": {}, "future": FUTURE, "next_event": NEXT_EVENT}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every second category and all the labels are rare values, whose ids are large; so are the regions'."""
    layout = layout_of()
    layout = layout.model_copy(
        update={
            "categorical": (CategoricalAttribute(name=SHOP, num_ids=NUM_IDS), *layout.categorical[1:]),
            "sets": (SetAttribute(name=LABELS, num_ids=NUM_IDS, max_values=3),),
            "profile_categorical": (CategoricalAttribute(name=REGION, num_ids=NUM_IDS),),
        }
    )
    rows = planted_rows(750)
    shops = rows["categorical"].reshape(750, 16, 2)
    shops[..., 0] = np.where(shops[..., 0] % 2, shops[..., 0], np.where(shops[..., 0] > 0, NUM_IDS - shops[..., 0], 0))
    rows["categorical"] = shops.reshape(750, -1)
    rows["sets"] = np.where(rows["sets"] > 0, NUM_IDS - 1 - rows["sets"], 0).astype(np.int32)
    rows["profile_categorical"] = np.where(rows["profile_categorical"], NUM_IDS - rows["profile_categorical"], 0)
    write_planted(tmp_path / "sequences", PLANS, rows=rows, layout=layout)
    return tmp_path / "sequences"


@torch.no_grad()
def test_rare_values_are_learned(folder: Path, tmp_path: Path) -> None:
    """By all logits of the masked events of the validation customers, which no training makes."""
    with torch.enable_grad():
        trained_alone(folder, tmp_path, max_epochs=12, patience=12, learning_rate=0.01, mask_share=0.15)

    network, manifest = network_of(load_checkpoint(current(tmp_path))).eval(), read_manifest(folder)
    (rows,) = SequenceReader(folder, manifest, "validation", rank=0, size=1).batches(150, shuffle_seed=None)
    batch = batch_of(rows, manifest.layout, AS_OF_US)
    is_masked_BT = masked_events(batch, seed=3, epoch=0, mask_share=0.15)
    decoded_MD = network(batch, is_masked_BT, torch.ones(150, dtype=torch.bool))
    assert network.heads is not None
    of_shops, of_labels = network.heads.categorical[0].rows_VX, network.heads.sets[0].rows_VX
    shop_M, label_MS = batch.categorical_BTC[is_masked_BT][:, 0], batch.sets_BTS[is_masked_BT]
    loss = functional.cross_entropy(functional.linear(decoded_MD, of_shops[:, :-1], of_shops[:, -1]), shop_M)
    logits_MV = functional.linear(decoded_MD, of_labels[:, :-1], of_labels[:, -1])
    is_in_MV = torch.zeros_like(logits_MV).scatter_(1, label_MS, 1.0)
    losses_MV = functional.binary_cross_entropy_with_logits(logits_MV, is_in_MV, reduction="none")
    assert loss.item() < 0.6 * manifest.scaling[SHOP].constant_loss
    assert losses_MV[:, 1:].sum(dim=1).mean().item() < 0.6 * manifest.scaling[LABELS].constant_loss


@pytest.mark.parametrize("model", MODELS)
def test_two_ranks_train_what_one_process_trains(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    version, alone = trained(folder, tmp_path / "alone", model=MODELS[model], **ONE_BATCH)
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")
    how = {"launcher": "torchrun", "num_workers": 2}
    shared, records = trained(folder, tmp_path, model=MODELS[model], **how, **ONE_BATCH)

    np.testing.assert_array_equal(*(np.load(tmp_path / f"weights-{rank}.npy") for rank in (0, 1)))
    losses = [[(one.training_loss, one.judged_loss) for one in of] for of in (records, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    expected = weights(tmp_path / "alone", version)
    for name, tensor in weights(tmp_path, shared).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_values_that_no_customer_has_stay_as_they_were_drawn(folder: Path, tmp_path: Path, model: str) -> None:
    """Weight decay and Adam's moments included: what a step costs does not follow from how many there are."""
    trained_alone(folder, tmp_path / "short", model=MODELS[model], max_epochs=1, weight_decay=0.1)
    trained_alone(folder, tmp_path / "long", model=MODELS[model], max_epochs=3, weight_decay=0.1)
    pair = [weights(tmp_path / root, current(tmp_path / root).name) for root in ("short", "long")]

    name = "encoder.event_vectors.embeddings.0.weight"
    assert pair[0][name].shape == (NUM_IDS, LARGEST_DIMENSION)
    has_moved = (pair[0][name] != pair[1][name]).any(dim=1)
    own = {3 + category for category in range(NUM_CATEGORIES)}
    assert set(has_moved.nonzero()[:, 0].tolist()) <= {value if value % 2 else NUM_IDS - value for value in own} | {2}
    assert has_moved.sum() >= NUM_CATEGORIES


def test_slices_of_wide_attributes_are_compared(folder: Path, tmp_path: Path) -> None:
    records = trained_alone(folder, tmp_path, model=CONTRASTIVE, max_epochs=2)
    assert records[-1].training_loss < records[0].training_loss


def test_f15_killed_within_an_epoch_it_ends_the_same(folder: Path, tmp_path: Path) -> None:
    trained_alone(folder, tmp_path / "whole", model=DROPOUTS)
    killed_at(7, folder, tmp_path / "cut")
    trained_alone(folder, tmp_path / "cut", model=DROPOUTS)
    assert current(tmp_path / "cut").name == current(tmp_path / "whole").name
