"""What the terminal says of a training, epoch by epoch."""

import pytest

from caspr_spark.pretrain.job import EpochRecord
from jobs.console import TrainingBar, epoch_line


def record(epoch: int = 3, *, waiting_share: float = 0.01, is_best: bool = True) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        training_loss=0.8,
        validation_loss=0.7331,
        validation_by_attribute={"any": 0.62, "count": 1.01},
        is_best=is_best,
        rows=2222,
        seconds=5.0,
        waiting_share=waiting_share,
    )


def test_a_line_has_every_part_of_the_loss_the_speed_and_the_time_left() -> None:
    line = epoch_line(record(), max_epochs=12, seconds_left=45.0)
    assert line == "epoch 3/12: loss 0.733 * (any 0.620, count 1.010), 444 customers/s, 45 s left at most"


def test_waiting_for_data_is_told_when_it_matters_and_nothing_is_left_after_the_last_epoch() -> None:
    line = epoch_line(record(12, waiting_share=0.31, is_best=False), max_epochs=12, seconds_left=0.0)
    assert line.startswith("epoch 12/12: loss 0.733 (any")
    assert line.endswith("444 customers/s, 31% of the time waiting for data")


def test_each_epoch_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TrainingBar(12)
    for epoch in (1, 2):
        bar(record(epoch))
    bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["epoch 1/12", "epoch 2/12"]
    assert "55 s left at most" in lines[0]
    assert "50 s left at most" in lines[1]
