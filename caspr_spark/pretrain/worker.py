"""One worker of a training with several processes: `python -m caspr_spark.pretrain.worker SPEC.json`.

It prints nothing of its own; rank 0 appends the epochs to progress.jsonl, from where the launcher tells them.
"""

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import torch

from caspr_spark.errors import CasprError
from caspr_spark.pretrain.job import EpochRecord, Job
from caspr_spark.pretrain.ranks import open_ranks
from caspr_spark.pretrain.trainer import train

PROGRESS_FILE = "progress.jsonl"
BEAT_FILE = "beat"
ERROR_FILES = "error-*.json"
BEAT_SECONDS = 1.0
LAUNCHER = "CASPR_SPARK_LAUNCHER"
"""Environment variable: the process that started the workers of this host, and that they do not outlive."""


class Watchdog:
    """Ends this process, with the place where each thread stood, when `beat` was not called for too long.

    A rank that waits for one that is gone waits for ever: neither Horovod nor a feeder's thread gives up by itself.
    """

    def __init__(self, timeout_seconds: int, beat_file: Path) -> None:
        self.timeout_seconds = timeout_seconds
        self.beat_file = beat_file
        self.last = -BEAT_SECONDS
        self.beat()

    def beat(self) -> None:
        if time.monotonic() - self.last >= BEAT_SECONDS:
            self.last = time.monotonic()
            faulthandler.dump_traceback_later(self.timeout_seconds, exit=True)
            self.beat_file.touch()

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()


def end_with_launcher() -> None:
    """End this process once its parent, or that of LAUNCHER, is gone.

    Killed, they end no worker, and the next run has the same folder.
    """
    parent, launcher = os.getppid(), int(os.environ.get(LAUNCHER, os.getppid()))

    def watch() -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            try:
                os.kill(launcher, 0)
            except OSError:  # gone, or the number is now another user's
                os._exit(1)
            if os.getppid() != parent:
                os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def run_worker(job: Job) -> str | None:
    """Train as one of the ranks. Returns the model version on rank 0, None on the others.

    A CasprError is left as error-<rank>.json for the launcher, and raised.
    """
    end_with_launcher()
    work = job.work_folder
    watchdog = Watchdog(job.pretrain.timeout_seconds, work / BEAT_FILE)
    torch.set_num_threads(job.pretrain.threads)
    ranks = open_ranks(job.pretrain.launcher, job.pretrain.timeout_seconds)

    def tell(record: EpochRecord) -> None:
        with (work / PROGRESS_FILE).open("a") as file:
            file.write(record.model_dump_json() + "\n")

    try:
        if ranks.size != job.pretrain.num_workers:
            raise CasprError(f"pretrain.num_workers is {job.pretrain.num_workers}, but {ranks.size} were started")
        version = train(job, ranks, progress=tell, beat=watchdog.beat).model_version
    except CasprError as error:
        described = {"type": type(error).__name__, "message": str(error)}
        with contextlib.suppress(OSError):  # the disk may be full; then there is the log
            part = work / f".error-{ranks.rank}.part"
            part.write_text(json.dumps(described))
            part.replace(work / ERROR_FILES.replace("*", str(ranks.rank)))
        raise
    ranks.close()
    watchdog.stop()
    return version


def run_worker_of(spec: str) -> str | None:
    """`run_worker` for a job as JSON; what Spark's workers are given."""
    return run_worker(Job.model_validate_json(spec))


def main(spec_file: str) -> NoReturn:
    """`run_worker` in a process of its own, which ends here.

    It ends without the interpreter's clean-up. All is on disk then, and threads of native code (gloo's, Arrow's) that
    still run when the interpreter goes can abort the process: a training that succeeded would fail.
    """
    faulthandler.enable()
    code = 0
    try:
        run_worker_of(Path(spec_file).read_text())
    except CasprError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
