"""A training on a GPU has all that is large there, and ends as one on the CPU does; half precision is close to it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caspr_spark.errors import ConfigError
from caspr_spark.manifest import read_manifest
from caspr_spark.model.chance import CPU
from caspr_spark.model.scoring import load_encoder
from caspr_spark.pretrain import start, trainer
from caspr_spark.pretrain.device import device_of
from caspr_spark.pretrain.job import EpochRecord, Job, pretrain_fingerprint
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.ranks import SingleRank
from tests.pretrain.named_gpu import GPU, NamedGpu
from tests.pretrain.planted import (
    AS_OF_US,
    CONTRASTIVE,
    FUTURE,
    NEXT_EVENT,
    model_section,
    planted_rows,
    pretrain_section,
    write_planted,
)
from tests.pretrain.test_launch import weights
from tests.pretrain.test_trainer import PLANS, current, trained

MODELS: dict[str, dict[str, Any]] = {
    "masked": {},
    "future": FUTURE,
    "next_event": NEXT_EVENT,
    "contrastive": CONTRASTIVE,
    "gru": FUTURE | {"encoder": "gru", "pooling": "last"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device") / "sequences"
    write_planted(folder, PLANS)
    return folder


def job_of(folder: Path, **pretrain: Any) -> Job:
    how = {"launcher": "torch_spark", "num_workers": 2} | pretrain
    return Job(
        manifest_folder=folder,
        model=model_section(),
        pretrain=pretrain_section(**how),
        seed=1,
        root=folder,
        fingerprint="",
    )


@pytest.mark.parametrize("model", MODELS)
def test_on_a_gpu_it_ends_as_on_the_cpu(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    records = trained(folder, tmp_path / "cpu", model=MODELS[model])
    expected = weights(tmp_path / "cpu", current(tmp_path / "cpu").name)
    monkeypatch.setattr(trainer, "device_of", lambda *_: GPU)
    with NamedGpu() as gpu:
        on_gpu = trained(folder, tmp_path / "gpu", model=MODELS[model])

    assert {"linear", "grad", "_fused_adamw_", "isfinite"} <= gpu.seen
    losses = [[(one.training_loss, one.judged_loss) for one in of] for of in (on_gpu, records)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for name, tensor in weights(tmp_path / "gpu", current(tmp_path / "gpu").name).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-4, msg=name)


@pytest.mark.parametrize("model", ["masked", "future", "next_event"])
def test_bf16_learns_what_float32_learns(folder: Path, tmp_path: Path, model: str) -> None:
    """The losses are close, the weights float32, and the vectors nearly the same."""
    rows, vectors, losses = planted_rows(100, seed=7), [], []
    for precision in ("float32", "bf16"):
        root = tmp_path / precision
        losses.append([one.judged_loss for one in trained(folder, root, model=MODELS[model], precision=precision)])
        assert {tensor.dtype for tensor in weights(root, current(root).name).values()} == {torch.float32}
        vectors.append(load_encoder(current(root)).encode(rows, AS_OF_US))

    np.testing.assert_allclose(*losses, rtol=0.02)
    assert losses[0] != losses[1]
    cosines = (vectors[0] * vectors[1]).sum(axis=1) / math.prod(np.linalg.norm(of, axis=1) for of in vectors)
    assert cosines.min() > 0.99


def test_a_gru_is_computed_in_float32(folder: Path, tmp_path: Path) -> None:
    """On a GPU torch would compute it in float16."""
    losses = []
    for precision in ("float32", "bf16"):
        records = trained(folder, tmp_path / precision, model=MODELS["gru"], precision=precision)
        losses.append([one.judged_loss for one in records])
    np.testing.assert_allclose(*losses, rtol=0.02)


def test_workers_of_another_kind_of_device_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer._Trainer, "_num_others", lambda self, own: 1)
    with pytest.raises(ConfigError, match=r"1 workers have another kind of device than the first \(cpu here\)"):
        trained(folder, tmp_path)


def test_a_full_gpu_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer._Trainer, "_step", full)
    with pytest.raises(ConfigError, match=r"the GPU's memory is full .* lower pretrain\.batch_size"):
        trained(folder, tmp_path)


@pytest.mark.parametrize(
    ("of_task", "device", "expected"), [("0", "auto", False), ("1", "auto", True), ("1", "cpu", False)]
)
def test_tasks_of_spark_have_one_gpu_or_none(folder: Path, of_task: str, device: str, expected: bool) -> None:
    job = job_of(folder, device=device)
    assert start._has_gpus(job, of_task) == expected
    if device == "auto":
        with pytest.raises(ConfigError, match=r"expected spark\.task\.resource\.gpu\.amount 1 or none, found 0\.5"):
            start._has_gpus(job, "0.5")


def test_a_precision_that_a_device_chose_is_no_other_training(folder: Path) -> None:
    manifest = read_manifest(folder)
    auto, cuda, half = (
        pretrain_fingerprint(manifest, model=model_section(), pretrain=pretrain_section(**how), seed=1)
        for how in ({}, {"device": "cuda"}, {"precision": "bf16"})
    )
    assert auto == cuda != half


def test_a_gpu_that_is_not_there_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto", SingleRank()) == device_of("cpu", SingleRank()) == CPU
    with pytest.raises(ConfigError, match=r"pretrain\.device is cuda, but torch sees no GPU"):
        device_of("cuda", SingleRank())


def test_the_ranks_of_a_host_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for local_rank in range(3):
        ranks = SingleRank()
        monkeypatch.setattr(ranks, "local_rank", local_rank, raising=False)
        device_of("auto", ranks)

    assert chosen == [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda", 0)]


def test_f15_interrupted_on_a_gpu_it_ends_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved goes back to the GPU."""

    def interrupt(record: EpochRecord) -> None:
        raise InterruptedError

    monkeypatch.setattr(trainer, "device_of", lambda *_: GPU)
    with NamedGpu():
        trained(folder, tmp_path / "whole")
        how = {"model": model_section(), "pretrain": pretrain_section(), "seed": 3, "root": tmp_path / "cut"}
        with pytest.raises(InterruptedError):
            pretrain(folder, **how, progress=interrupt)
        (second,) = trained(folder, tmp_path / "cut")

    assert second.epoch == 2
    assert current(tmp_path / "cut").name == current(tmp_path / "whole").name
