"""The epochs of a training as TensorBoard's events, for who watches it there."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from caspr_spark.errors import ConfigError
from caspr_spark.pretrain.job import EpochRecord


@contextlib.contextmanager
def tensorboard_events(folder: Path) -> Iterator[Callable[[EpochRecord], None]]:
    """What is called with an epoch writes it to a new file of events in `folder`; on disk before the next epoch."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ConfigError(
            "pretrain.tensorboard: needs the package tensorboardX, which is not installed; run `pip install "
            "'caspr-spark[tensorboard]'`, or set it to null"
        ) from None

    with SummaryWriter(str(folder)) as writer:

        def write(record: EpochRecord) -> None:
            for name, value in scalars_of(record).items():
                writer.add_scalar(name, value, record.epoch)
            writer.flush()

        yield write


def scalars_of(record: EpochRecord) -> dict[str, float]:
    """Name -> number; losses are relative, 1.0 is the best constant guess."""
    found = {"loss/training": record.training_loss, "customers_per_second": record.rows / max(record.seconds, 1e-9)}
    if record.validation_loss is not None:
        found["loss/validation"] = record.validation_loss
    found |= {f"validation/{name}": loss for name, loss in record.validation_by_attribute.items()}
    return found | {"share/waiting_for_data": record.waiting_share, "share/exchange": record.exchange_share}
