"""The training loop: it learns what was planted, keeps the best, and stops where going on would be wrong."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from caspr_spark.errors import CasprError
from caspr_spark.manifest import read_manifest
from caspr_spark.model.batch import Batch
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.network import Network
from caspr_spark.model.scoring import load_encoder
from caspr_spark.pretrain.future import PART_WEIGHTS
from caspr_spark.pretrain.job import EpochRecord, pretrain_fingerprint
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.masked import MaskedRecovery
from caspr_spark.pretrain.reader import Rows, SequenceReader
from caspr_spark.pretrain.tally import Tally
from caspr_spark.pretrain.weights import FlatWeights, adam_step
from caspr_spark.registry import kept_models
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

PLANS = [FilePlan("training", (300, 200, 100)), FilePlan("validation", (150,))]
DROPOUTS = {"dropout": 0.1, "event_dropout": 0.2, "values_dropout": 0.2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_planted(tmp_path / "sequences", PLANS)
    return tmp_path / "sequences"


def trained(folder: Path, root: Path, *, model: dict[str, Any] | None = None, **changes: Any) -> list[EpochRecord]:
    records: list[EpochRecord] = []
    pretrain(
        folder,
        model=model_section(**(model or {})),
        pretrain=pretrain_section(**changes),
        seed=3,
        root=root,
        progress=records.append,
    )
    return records


def current(root: Path) -> Path:
    """The checkpoint of the last training."""
    return max((root / "checkpoints").glob("*/checkpoint.json"), key=lambda path: path.stat().st_mtime_ns).parent


@pytest.mark.parametrize("memory_dropout", [0.0, 1.0])
def test_masked_events_are_recovered_better_than_by_a_constant(
    folder: Path, tmp_path: Path, memory_dropout: float
) -> None:
    """With memory_dropout 1 what the decoder knows of later events comes through the customer's vector alone."""
    records = trained(folder, tmp_path, model={"memory_dropout": memory_dropout, "dropout": 0.1}, max_epochs=12)

    last = records[-1]
    assert last.validation_loss is not None
    assert last.validation_loss < 0.6
    assert set(last.validation_by_attribute) == {"shop", "colour", "labels", "amount", "refund"}
    assert all(loss < 0.9 for loss in last.validation_by_attribute.values())
    assert [record.rows for record in records] == [600] * len(records)


def test_the_future_is_foretold_better_than_by_a_constant(folder: Path, tmp_path: Path) -> None:
    """Amounts and values repeat with the customer's phase and period; how often somebody comes is mere chance."""
    records = trained(folder, tmp_path, model=FUTURE, max_epochs=12, patience=12)

    best = records[-1].validation_by_attribute
    assert list(best) == ["any", "count", "amounts_log", "amounts_linear", "next_values", "new_values", "recent_values"]
    assert records[-1].training_loss < records[0].training_loss
    assert all(loss < 0.9 for part, loss in best.items() if part not in ("any", "count"))


def test_objectives_are_summed_by_their_weights(folder: Path, tmp_path: Path) -> None:
    weights = {"masked": 1.0, "future": 3.0, "contrastive": 2.0, "next_event": 4.0}
    model = FUTURE | {"objectives": weights, "pooling": "attention", "encoder": "gru"}
    records = trained(folder, tmp_path, model=model)

    of_part = list(records[-1].validation_by_attribute.values())
    assert len(of_part) == 5 + 7 + 1 + 6
    future = np.average(of_part[5:12], weights=PART_WEIGHTS)
    means = [np.mean(of_part[:5]), future, np.mean(of_part[12:13]), np.mean(of_part[13:19])]
    assert records[-1].validation_loss == pytest.approx(np.average(means, weights=list(weights.values())))


@pytest.mark.parametrize("objective", ["masked", "future", "contrastive", "next_event"])
def test_decayed_pooling_has_the_datas_units_whatever_the_objective(
    folder: Path, tmp_path: Path, objective: str
) -> None:
    model = FUTURE | {"objectives": {"masked": 0.0, "future": 0.0} | {objective: 1.0}}
    trained(folder, tmp_path, model=model, max_epochs=1)
    rows = {name: values[:600] for name, values in planted_rows(750).items()}
    num_events, first = rows["num_events"], rows["event_times"][:, 0]
    tenure_days = (AS_OF_US - first) / DAY_US
    is_real = np.arange(16) < num_events[:, None]
    sizes = np.abs(rows["numerical"].astype(np.float64).reshape(600, 16, 2)[is_real])  # none is cut

    found = load_checkpoint(current(tmp_path)).weights
    assert found["encoder.decayed.longest_days"].item() == pytest.approx(tenure_days.max() / 3, rel=1e-5)
    assert found["encoder.decayed.mean_rate"].item() == pytest.approx((num_events / tenure_days).mean(), rel=1e-5)
    expected = np.nanmean(sizes, axis=0)
    np.testing.assert_allclose(found["encoder.decayed.mean_absolute_N"].numpy(), expected, rtol=1e-5)


def test_one_cycle_is_that_of_torch(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps an epoch; torch counts its last step as the end of the cycle, we the step after it."""
    from caspr_spark.pretrain import trainer

    used: list[float] = []

    def spied(flat: FlatWeights, moments: tuple[Tensor, Tensor], rates: list[float], **how: Any) -> None:
        used.extend(rates)
        adam_step(flat, moments, rates, **how)

    monkeypatch.setattr(trainer, "adam_step", spied)
    trained(folder, tmp_path, batch_size=200, schedule="one_cycle", max_epochs=10, patience=10, learning_rate=0.01)

    weights = torch.zeros(1, requires_grad=True)
    theirs = torch.optim.lr_scheduler.OneCycleLR(torch.optim.SGD([weights]), 0.01, total_steps=31, pct_start=10 / 31)
    expected = []
    for _ in range(30):
        expected.append(theirs.get_last_lr()[0])
        theirs.optimizer.step()
        theirs.step()
    assert used == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_the_same_training_gives_the_same_version_and_finite_vectors(folder: Path, tmp_path: Path) -> None:
    for root in (tmp_path / "a", tmp_path / "b"):
        trained(folder, root, model={"dropout": 0.2})

    assert current(tmp_path / "a").name == current(tmp_path / "b").name
    vectors = load_encoder(current(tmp_path / "a")).encode(planted_rows(5), AS_OF_US)
    assert vectors.shape == (5, 8)
    assert np.isfinite(vectors).all()


def test_a_repeated_training_does_nothing_unless_a_setting_or_the_checkpoint_changed(
    folder: Path, tmp_path: Path
) -> None:
    assert len(trained(folder, tmp_path)) == 2
    first = current(tmp_path)

    assert trained(folder, tmp_path, threads=2, timeout_seconds=9) == []
    (first / "weights.safetensors").write_bytes(b"damaged")
    assert len(trained(folder, tmp_path)) == 2
    assert load_checkpoint(current(tmp_path)).model_version == first.name
    assert len(trained(folder, tmp_path, learning_rate=0.001)) == 2
    assert current(tmp_path) != first


def test_the_fingerprint_follows_the_settings_that_matter(folder: Path) -> None:
    manifest = read_manifest(folder)

    def of(seed: int = 1, **changes: Any) -> str:
        return pretrain_fingerprint(manifest, model=model_section(), pretrain=pretrain_section(**changes), seed=seed)

    assert of() == of(threads=2) == of(timeout_seconds=1) == of(launcher="torchrun")
    assert len({of(), of(seed=2), of(num_workers=2), of(mask_share=0.2), of(batch_size=1)}) == 5


def test_training_stops_after_patience_epochs_and_keeps_the_best_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a planted validation curve the third epoch is the best; the fourth and fifth are as bad as they get."""
    curve = iter([0.9, 0.8, 0.5, 0.7, 0.6, 0.1])
    kept: list[Tensor] = []
    from caspr_spark.pretrain import trainer

    plain = trainer._Trainer.validate

    def planted(self: trainer._Trainer) -> Tally:
        tally = plain(self)
        kept.append(self.flat.weights_W.detach().clone())
        tally.sums_A = tally.counts_A * self.objective.parts[0][1].terms.constant_A * next(curve)
        return tally

    monkeypatch.setattr(trainer._Trainer, "validate", planted)
    records = trained(folder, tmp_path, max_epochs=50, patience=2)

    assert [round(record.validation_loss or 0, 6) for record in records] == [0.9, 0.8, 0.5, 0.7, 0.6]
    assert [record.is_best for record in records] == [True, True, True, False, False]
    network = Network(model_section(), read_manifest(folder).layout, read_manifest(folder).scaling)
    network.load_state_dict(load_checkpoint(current(tmp_path)).weights)
    saved = torch.cat([parameter.flatten() for parameter in network.parameters()])
    assert torch.equal(saved, kept[2])
    assert not torch.equal(saved, kept[4])


def test_a_loss_that_is_not_a_number_stops_the_run_and_no_checkpoint_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = MaskedRecovery.sums
    steps = iter(range(100))

    def broken(self: MaskedRecovery, network: Network, batch: Batch, drawn: tuple[Tensor, Tensor]) -> Tensor:
        return plain(self, network, batch, drawn) * (float("nan") if next(steps) == 3 else 1.0)

    monkeypatch.setattr(MaskedRecovery, "sums", broken)

    with pytest.raises(CasprError, match=r"epoch 1, step 2: the loss is nan"):
        trained(folder, tmp_path, batch_size=32)
    assert not kept_models(tmp_path)


@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("how", ["lost", "repeated"])
def test_f75_rows_that_the_feeder_loses_or_repeats_fail_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, split: str
) -> None:
    plain = SequenceReader._row_groups

    def faulty(self: SequenceReader, shuffle_seed: int | None) -> Iterator[Rows]:
        for number, rows in enumerate(plain(self, shuffle_seed)):
            is_hit = number == 0 and (shuffle_seed is None) == (split == "validation")
            if not is_hit or how == "repeated":
                yield rows
            if is_hit and how == "repeated":
                yield rows

    monkeypatch.setattr(SequenceReader, "_row_groups", faulty)

    with pytest.raises(CasprError, match=rf"{split}: expected \d+ customers an epoch, the reader gave \d+"):
        trained(folder, tmp_path)
    assert not kept_models(tmp_path)


@pytest.mark.parametrize("model", [{}, FUTURE], ids=["masked", "future"])
def test_a_training_is_the_same_on_one_thread_and_on_many(folder: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    losses = [
        [
            record.training_loss
            for record in trained(folder, tmp_path / str(threads), model=model | DROPOUTS, threads=threads)
        ]
        for threads in (1, 2, 3)
    ]

    assert losses[0] == losses[1] == losses[2]
    assert len({current(tmp_path / str(threads)).name for threads in (1, 2, 3)}) == 1


def test_without_validation_customers_the_training_loss_decides(tmp_path: Path) -> None:
    write_planted(tmp_path / "sequences", [FilePlan("training", (60,))])

    records = trained(tmp_path / "sequences", tmp_path)

    assert [record.validation_loss for record in records] == [None, None]
    assert records[-1].judged_loss == records[-1].training_loss


def test_customers_of_one_event_have_nothing_to_recover_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_planted(tmp_path / "sequences", [FilePlan("training", (20,))], max_events=2)
    plain = SequenceReader._row_groups

    def single(self: SequenceReader, shuffle_seed: int | None) -> Iterator[Rows]:
        for rows in plain(self, shuffle_seed):
            yield rows | {"num_events": np.ones_like(rows["num_events"])}

    monkeypatch.setattr(SequenceReader, "_row_groups", single)

    with pytest.raises(CasprError, match="no training customer has two events"):
        trained(tmp_path / "sequences", tmp_path)


def test_the_curve_is_kept_with_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    records = trained(folder, tmp_path)

    lines = (current(tmp_path) / "curve.jsonl").read_text().splitlines()
    assert [EpochRecord.model_validate_json(line) for line in lines] == records
