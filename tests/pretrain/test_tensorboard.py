"""On request each epoch is written as TensorBoard's events; read back here record by record."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from caspr_spark.errors import ConfigError
from tests.pretrain.planted import FilePlan, write_planted
from tests.pretrain.test_trainer import trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_planted(tmp_path / "sequences", [FilePlan("training", (60,)), FilePlan("validation", (20,))])
    return tmp_path / "sequences"


def scalars(file: Path) -> Iterator[tuple[str, int, float]]:
    """(name, epoch, number). A record is its length in 8 bytes, 4 of checksum, itself, and 4 of checksum."""
    data, start = file.read_bytes(), 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        event = Event.FromString(data[start + 12 : start + 12 + length])
        start += 12 + length + 4
        for value in event.summary.value:
            yield value.tag, event.step, value.simple_value


def test_every_epoch_is_written_as_it_is_told(folder: Path, tmp_path: Path) -> None:
    records = trained(folder, tmp_path, tensorboard=str(tmp_path / "events"))

    (file,) = (tmp_path / "events").glob("*/events.out.tfevents.*")
    found = {(name, epoch): value for name, epoch, value in scalars(file)}
    assert {epoch for _, epoch in found} == {1, 2}
    for record in records:
        expected = {
            "loss/training": record.training_loss,
            "loss/validation": record.validation_loss,
            "validation/shop": record.validation_by_attribute["shop"],
            "customers_per_second": record.rows / record.seconds,
            "share/waiting_for_data": record.waiting_share,
        }
        assert {name: found[name, record.epoch] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_without_the_package_it_is_said_what_to_install_and_nothing_is_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"pretrain.tensorboard: needs .* `pip install 'caspr-spark\[tensorboard\]'"):
        trained(folder, tmp_path, tensorboard=str(tmp_path / "events"))
