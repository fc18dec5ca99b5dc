"""A worker that also keeps the weights its rank ended with, and that dies or hangs in the middle if it is told to."""

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
    trained = trainer.train(job, ranks, **rest)
    np.save(job.root / f"weights-{ranks.rank}.npy", trained.best_W.numpy())
    return trained


def misfortune() -> None:
    if os.environ["PROBE_MISFORTUNE"] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600)


if __name__ == "__main__":
    vars(worker)["train"] = train_and_keep
    worker.main(sys.argv[1])
