"""A worker that also keeps what its rank ended with, and that dies, hangs or is slow in the middle if it is told to."""

import os
import signal
import sys
import time
from typing import Any

import numpy as np

from caspr_spark.pretrain import trainer, worker
from caspr_spark.pretrain.job import Job
from caspr_spark.pretrain.ranks import Ranks


def train_and_keep(job: Job, ranks: Ranks, **rest: Any) -> trainer.Trained:
    if os.environ.get("PROBE_RANK") == str(ranks.rank):
        rest["beat"] = misfortune
    if os.environ.get("PROBE_MISFORTUNE") == "slow":
        trainer.SAVE_SECONDS, trainer.SAVE_SHARE = 0.0, 1e9
        rest["beat"] = lambda: time.sleep(0.3)
    steps, take_step = list[int](), trainer._Trainer._step

    def counted(self: Any, chunks: Any, epoch: int, step: int) -> Any:
        steps.append(step)
        return take_step(self, chunks, epoch, step)

    vars(trainer)["_Trainer"]._step = counted
    trained = trainer.train(job, ranks, **rest)
    np.save(job.root / f"weights-{ranks.rank}.npy", trained.best_W.numpy())
    np.save(job.root / f"steps-{ranks.rank}.npy", steps)
    return trained


def misfortune() -> None:
    if os.environ["PROBE_MISFORTUNE"] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


if __name__ == "__main__":
    vars(worker)["train"] = train_and_keep
    worker.main(sys.argv[1])
