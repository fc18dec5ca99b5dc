"""A worker that also keeps what its rank ended with, and that dies or hangs in the middle if it is told to."""

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from caspr_spark.pretrain import state, trainer, worker
from caspr_spark.pretrain.job import Job
from caspr_spark.pretrain.ranks import Ranks

BEATS = 7
"""After so many steps a worker dies, or all stand still."""
beats = list[None]()


def train_and_keep(job: Job, ranks: Ranks, **rest: Any) -> trainer.Trained:
    if os.environ.get("PROBE_RANK") == str(ranks.rank):
        rest["beat"] = misfortune
    if os.environ.get("PROBE_MISFORTUNE") == "full":
        vars(state)["save_file"] = full_disk
    if os.environ.get("PROBE_MISFORTUNE") in ("stands still", "dies once"):
        trainer.SAVE_SECONDS, trainer.SAVE_SHARE = 0.0, 1e9
        rest["beat"] = misfortune
    steps, take_step = list[int](), trainer._Trainer._step

    def counted(self: Any, chunks: Any, epoch: int, step: int) -> Any:
        steps.append(step)
        return take_step(self, chunks, epoch, step)

    vars(trainer)["_Trainer"]._step = counted
    trained = trainer.train(job, ranks, **rest)
    np.save(job.root / f"weights-{ranks.rank}.npy", trained.best_W.numpy())
    np.save(job.root / f"steps-{ranks.rank}.npy", steps)
    return trained


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def misfortune() -> None:
    kind, died = os.environ["PROBE_MISFORTUNE"], Path(os.environ.get("PROBE_DIED", "."))
    beats.append(None)
    if kind == "stands still":
        if len(beats) == BEATS:
            time.sleep(3600)
    elif kind == "dies once":
        if len(beats) == BEATS and os.environ["RANK"] == "1" and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        time.sleep(3600)


if __name__ == "__main__":
    vars(worker)["train"] = train_and_keep
    worker.main(sys.argv[1])
