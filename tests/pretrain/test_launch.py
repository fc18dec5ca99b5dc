"""Several processes train what one process trains. Nothing here is skipped: Horovod belongs to the test environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from caspr_spark.errors import CasprError, ConfigError, TemporaryError
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.pretrain import launch, start
from caspr_spark.pretrain.job import EpochRecord
from caspr_spark.registry import kept_models
from tests.pretrain.planted import (
    CONTRASTIVE,
    FUTURE,
    NEXT_EVENT,
    FilePlan,
    model_section,
    pretrain_section,
    write_planted,
)

UNEVEN = [FilePlan("training", (40, 7, 25)), FilePlan("training", (3, 30)), FilePlan("validation", (20,))]
"""Rank 0 of two reads 40 + 25 + 30 = 95 customers, rank 1 7 + 3 = 10; there is one validation row group."""
ONE_BATCH = {"batch_size": 200, "max_epochs": 6, "patience": 6}
MODELS: list[dict[str, Any]] = [{}, FUTURE, NEXT_EVENT]
NAMES = ["masked", "future", "next_event"]
"""Not contrastive: its negatives are those of the worker."""


class Alone(NamedTuple):
    """What one process trained that takes all training customers at each step."""

    model: dict[str, Any]
    weights: dict[str, torch.Tensor]
    records: list[EpochRecord]


def trained(
    folder: Path, root: Path, *, model: dict[str, Any] | None = None, **changes: object
) -> tuple[str, list[EpochRecord]]:
    records: list[EpochRecord] = []
    version = launch.pretrain(
        folder,
        model=model_section(**(model or {})),
        pretrain=pretrain_section(**changes),
        seed=3,
        root=root,
        progress=records.append,
    )
    return version, records


def weights(root: Path, version: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(root / "checkpoints" / version).weights


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launch") / "sequences"
    write_planted(folder, UNEVEN)
    return folder


@pytest.fixture(scope="module")
def alone(request: pytest.FixtureRequest, sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Of the model that the test names."""
    root = tmp_path_factory.mktemp("alone")
    version, records = trained(sequences, root, model=request.param, **ONE_BATCH)
    return Alone(request.param, weights(root, version), records)


@pytest.mark.parametrize("alone", MODELS, ids=NAMES, indirect=True)
@pytest.mark.parametrize("launcher", ["horovod", "torchrun"])
def test_two_ranks_with_uneven_row_groups_train_what_one_process_trains(
    launcher: str,
    sequences: Path,
    alone: Alone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")

    version, records = trained(sequences, tmp_path, model=alone.model, launcher=launcher, num_workers=2, **ONE_BATCH)

    of_rank = [np.load(tmp_path / f"weights-{rank}.npy") for rank in (0, 1)]
    np.testing.assert_array_equal(of_rank[0], of_rank[1])
    assert [record.rows for record in records] == [105] * 6
    np.testing.assert_allclose(
        [[record.training_loss, record.judged_loss] for record in records],
        [[record.training_loss, record.judged_loss] for record in alone.records],
        rtol=1e-4,
    )
    for name, tensor in weights(tmp_path, version).items():
        torch.testing.assert_close(tensor, alone.weights[name], rtol=0, atol=2e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("alone", MODELS[:2], ids=NAMES[:2], indirect=True)
@pytest.mark.parametrize("launcher", ["horovod", "torchrun"])
def test_four_ranks_train_what_one_process_trains(
    launcher: str, sequences: Path, alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row groups of five are shared by four: two, one, one and one."""
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")

    how = {"launcher": launcher, "num_workers": 4, "timeout_seconds": 240}
    version, records = trained(sequences, tmp_path, model=alone.model, **how, **ONE_BATCH)

    of_rank = [np.load(tmp_path / f"weights-{rank}.npy") for rank in range(4)]
    assert all((one == of_rank[0]).all() for one in of_rank)
    assert [record.rows for record in records] == [105] * 6
    for name, tensor in weights(tmp_path, version).items():
        torch.testing.assert_close(tensor, alone.weights[name], rtol=0, atol=2e-4, msg=name)


def test_two_ranks_with_negatives_of_their_own_keep_the_same_weights(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")

    _, records = trained(sequences, tmp_path, model=CONTRASTIVE, launcher="torchrun", num_workers=2, **ONE_BATCH)

    of_rank = [np.load(tmp_path / f"weights-{rank}.npy") for rank in (0, 1)]
    np.testing.assert_array_equal(of_rank[0], of_rank[1])
    assert [record.rows for record in records] == [105] * 6
    losses = [record.validation_loss for record in records if record.validation_loss is not None]
    assert losses[-1] < losses[0]  # of slices that are the same each time


def test_f76_ranks_with_unequal_numbers_of_batches_do_not_wait_for_ever(sequences: Path, tmp_path: Path) -> None:
    """Rank 0 has ten batches of 10, rank 1 one: it adds nothing to the other nine."""
    _, records = trained(sequences, tmp_path, launcher="horovod", num_workers=2, batch_size=10, max_epochs=1)

    assert [record.rows for record in records] == [105]


def test_f16_a_killed_rank_ends_the_job_and_leaves_the_checkpoint_of_before(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = trained(sequences, tmp_path, max_epochs=1)
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")
    monkeypatch.setenv("PROBE_RANK", "1")
    monkeypatch.setenv("PROBE_MISFORTUNE", "dies")

    with pytest.raises(CasprError, match=r"launcher horovod: the workers failed"):
        trained(sequences, tmp_path, launcher="horovod", num_workers=2, max_epochs=50, patience=50)

    assert trained(sequences, tmp_path, max_epochs=1)[0] == before


def test_f16_what_the_workers_wrote_and_which_failed_first_is_said(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")
    monkeypatch.setenv("PROBE_RANK", "1")
    monkeypatch.setenv("PROBE_MISFORTUNE", "dies")

    with pytest.raises(CasprError) as raised:
        trained(sequences, tmp_path, launcher="torchrun", num_workers=2, max_epochs=5)

    last = str(raised.value).splitlines()[-1]
    assert "failed (exitcode: -9) local_rank: 1" in last  # not the table that follows it in the file
    assert not kept_models(tmp_path)


def test_f12_a_full_disk_ends_all_ranks_and_there_is_no_model(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")
    monkeypatch.setenv("PROBE_MISFORTUNE", "full")

    with pytest.raises(CasprError, match=r"could not be saved \(.*No space left.*\); make room and run"):
        trained(sequences, tmp_path, launcher="torchrun", num_workers=2, max_epochs=5)
    assert not kept_models(tmp_path)


def test_a_loss_that_is_not_a_number_ends_all_ranks_alike(sequences: Path, tmp_path: Path) -> None:
    with pytest.raises(CasprError, match=r"epoch 1, step \d+: the loss is (nan|inf)"):
        trained(sequences, tmp_path, launcher="torchrun", num_workers=2, batch_size=10, learning_rate=1e38)

    said = [json.loads(path.read_text())["message"] for path in tmp_path.glob("checkpoints/.training-*/error-*.json")]
    assert len(said) == 2
    assert said[0] == said[1]
    assert not kept_models(tmp_path)


@pytest.mark.slow
def test_f16_a_rank_that_hangs_ends_the_job_after_the_timeout(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")
    monkeypatch.setenv("PROBE_RANK", "1")
    monkeypatch.setenv("PROBE_MISFORTUNE", "hangs")

    with pytest.raises(CasprError, match=r"launcher horovod: the workers failed"):
        trained(sequences, tmp_path, launcher="horovod", num_workers=2, max_epochs=50, timeout_seconds=12)
    assert not kept_models(tmp_path)


def test_a_workers_own_error_reaches_the_caller_with_its_class(tmp_path: Path) -> None:
    write_planted(tmp_path / "sequences", [FilePlan("training", (20,)), FilePlan("validation", (5,))])

    with pytest.raises(
        ConfigError, match=r"2 workers need a row group .* found 1; lower sequences.customers_per_row_group"
    ):
        trained(tmp_path / "sequences", tmp_path, launcher="torchrun", num_workers=2)


def test_single_launcher_with_two_workers_is_refused(sequences: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretrain.num_workers"):
        trained(sequences, tmp_path, num_workers=2)


def test_two_trainings_of_one_root_do_not_mix(sequences: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()

    with launch._only_one(tmp_path / "checkpoints"), pytest.raises(TemporaryError, match="another training"):
        trained(sequences, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("alone", MODELS[:1], ids=NAMES[:1], indirect=True)
@pytest.mark.parametrize("launcher", ["horovod_spark", "torch_spark"])
def test_workers_in_spark_train_what_one_process_trains(
    launcher: str, sequences: Path, alone: Alone, tmp_path: Path
) -> None:
    """In a process of its own: it must not end the Spark session that other tests share."""
    job = {"launcher": launcher, "folder": str(sequences), "root": str(tmp_path), "changes": ONE_BATCH}
    environment = os.environ | {"PYSPARK_PYTHON": sys.executable}
    command = [sys.executable, "-m", "tests.pretrain.spark_probe", json.dumps(job)]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    version, *losses = done.stdout.split()
    np.testing.assert_allclose(np.array(losses, float), [record.training_loss for record in alone.records], rtol=1e-4)
    for name, tensor in weights(tmp_path, version).items():
        torch.testing.assert_close(tensor, alone.weights[name], rtol=0, atol=2e-4, msg=name)
