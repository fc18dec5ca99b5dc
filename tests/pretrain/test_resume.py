"""A training that was killed goes on where it was, and ends with the weights of one that was not."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from caspr_spark.errors import UnsafeError
from caspr_spark.model.batch import Batch
from caspr_spark.pretrain.job import EpochRecord
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.state import PREVIOUS_FILE, STATE_FILE, load_state
from caspr_spark.pretrain.trainer import _Trainer
from tests.pretrain.planted import CONTRASTIVE, FUTURE, NEXT_EVENT, model_section, pretrain_section, write_planted
from tests.pretrain.test_trainer import DROPOUTS, PLANS, current, trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_planted(tmp_path / "sequences", PLANS)
    return tmp_path / "sequences"


@pytest.mark.parametrize(
    "model", [{}, FUTURE, CONTRASTIVE, NEXT_EVENT], ids=["masked", "future", "contrastive", "next_event"]
)
@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_f15_a_training_that_was_killed_goes_on_where_it_was_and_ends_the_same(
    folder: Path, tmp_path: Path, model: dict[str, Any], schedule: str
) -> None:
    model = model | {"dropout": 0.1, "event_dropout": 0.2, "values_dropout": 0.2}
    settings = {"max_epochs": 4, "patience": 4, "schedule": schedule, "weight_decay": 0.01}
    whole = trained(folder, tmp_path / "whole", model=model, **settings)

    def dies(record: EpochRecord) -> None:
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(
            folder,
            model=model_section(**model),
            pretrain=pretrain_section(**settings),
            seed=3,
            root=tmp_path / "cut",
            progress=dies,
        )
    rest = trained(folder, tmp_path / "cut", model=model, **settings)

    assert [record.epoch for record in rest] == [3, 4]
    assert [record.training_loss for record in rest] == [record.training_loss for record in whole[2:]]
    assert current(tmp_path / "cut").name == current(tmp_path / "whole").name
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").glob(".training*")] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from caspr_spark.pretrain import trainer
from tests.pretrain.test_trainer import DROPOUTS, trained

trainer.SAVE_SECONDS, trainer.SAVE_SHARE = 0, 1e9
step, steps = trainer._Trainer._step, []

def dies(self, *args):
    steps.append(None)
    if len(steps) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)

trainer._Trainer._step = dies
trained(Path(sys.argv[1]), Path(sys.argv[2]), model=DROPOUTS)
"""


def killed_at(step: int, folder: Path, root: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(folder), str(root), str(step)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", [1, 4, 10, 17])
def test_f15_killed_at_any_step_it_goes_on_within_the_epoch_and_ends_the_same(
    folder: Path, tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch has ten steps here; the states are written after each."""
    whole = trained(folder, tmp_path / "whole", model=DROPOUTS)
    killed_at(step, folder, tmp_path / "cut")
    took_step, steps = _Trainer._step, list[int]()

    def counted(trainer: _Trainer, chunks: list[Batch], epoch: int, of_epoch: int) -> tuple[Tensor, Tensor]:
        steps.append(of_epoch)
        return took_step(trainer, chunks, epoch, of_epoch)

    monkeypatch.setattr(_Trainer, "_step", counted)
    rest = trained(folder, tmp_path / "cut", model=DROPOUTS)

    assert len(steps) == 20 - (step - 1)
    assert [record.training_loss for record in rest] == [record.training_loss for record in whole[-len(rest) :]]
    assert {record.rows for record in rest} == {600}
    assert current(tmp_path / "cut").name == current(tmp_path / "whole").name


def test_f15_of_a_damaged_state_the_one_before_is_taken_and_two_damaged_stop_it(folder: Path, tmp_path: Path) -> None:
    trained(folder, tmp_path / "whole", model=DROPOUTS)
    killed_at(6, folder, tmp_path / "cut")
    (work,) = (tmp_path / "cut" / "checkpoints").glob(".training-*")
    state = (work / STATE_FILE).read_bytes()
    (work / STATE_FILE).write_bytes(state[:-9] + bytes(9))

    assert load_state(work).under_way.step == 4  # type: ignore[union-attr]
    trained(folder, tmp_path / "cut", model=DROPOUTS)
    assert current(tmp_path / "cut").name == current(tmp_path / "whole").name

    killed_at(3, folder, tmp_path / "again")
    (work,) = (tmp_path / "again" / "checkpoints").glob(".training-*")
    for name in (STATE_FILE, PREVIOUS_FILE):
        (work / name).write_bytes(state[:100])
    with pytest.raises(UnsafeError, match=f"{STATE_FILE}.*unreadable.*remove it\n.*{PREVIOUS_FILE}"):
        trained(folder, tmp_path / "again", model=DROPOUTS)
