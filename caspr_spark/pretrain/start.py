"""Starting the workers of a training, waiting for them, and ending them if they hang.

Workers on one host find one another and exchange data over files and the loopback interface: no other host can reach
them. Those of Spark are on many hosts, and the servers over which they meet ask nobody who they are: train where the
network is private.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

import caspr_spark
from caspr_spark import errors
from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.pretrain.job import EpochRecord, Job, Progress
from caspr_spark.pretrain.ranks import STORE, SingleRank
from caspr_spark.pretrain.state import saved_until
from caspr_spark.pretrain.trainer import train
from caspr_spark.pretrain.worker import BEAT_FILE, ERROR_FILES, LAUNCHER, PROGRESS_FILE, run_worker_of

WORKER_MODULE, HOROVODRUN_MODULE = "caspr_spark.pretrain.worker", "caspr_spark.pretrain.horovodrun"
LOG_FILE, SPEC_FILE = "workers.log", "spec.json"
RENDEZVOUS_FILE, STORE_FILE = "rendezvous", "store"
"""Over which torchrun and its workers find one another."""
TASK_GPUS = "spark.task.resource.gpu.amount"
"""Spark's setting: GPUs of a task."""
POLL_SECONDS = 0.2
GRACE_SECONDS = 45
"""The workers' own watchdogs come first, and torchrun's 30 seconds for workers that do not end when told to."""
LAST_LINES = 15
FIRST_END = "failed (exitcode: "
"""Torchrun writes so of the worker that failed first; its own traceback and a table follow, which say no more."""


class WorkersFailed(CasprError):  # noqa: N818  (what happened to them)
    """They were killed, hung, or did not start: none of them says what is wrong."""


def run_workers(job: Job, progress: Progress) -> None:
    """Train as the job's launcher does it; `progress` is called with every epoch.

    Raises WorkersFailed where workers ended without a word, or else the first worker's own error.
    """
    if job.pretrain.launcher == "single":
        _in_process(job, progress)
    elif job.pretrain.launcher in ("horovod", "torchrun"):
        _in_processes(job, progress)
    else:
        _in_spark(job, progress)


def remove_stale(work: Path) -> None:
    """What earlier workers left in the work folder, but for the state of the training."""
    for name in (PROGRESS_FILE, LOG_FILE, RENDEZVOUS_FILE, STORE_FILE, BEAT_FILE, ERROR_FILES):
        for stale in work.glob(name):
            stale.unlink()


def _in_process(job: Job, progress: Progress) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(job.pretrain.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            train(job, SingleRank(), progress=progress)
    finally:
        torch.set_num_threads(threads)


def _in_processes(job: Job, progress: Progress) -> None:
    """horovodrun or torchrun on this host."""
    spec = job.work_folder / SPEC_FILE
    spec.write_text(job.model_dump_json(indent=1))
    loopback = _loopback()
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # torchrun's own server, for every interface; ours is a file
        STORE: str(job.work_folder / STORE_FILE),
        LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": str(job.pretrain.threads),
        "PYTHONPATH": os.pathsep.join([_import_path(), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [*_command(job, loopback), str(spec)]
    with (job.work_folder / LOG_FILE).open("w") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            hung = _watch(lambda: process.poll() is None, job, progress)
        finally:
            _end(process)
    if hung or process.returncode:
        raise _failure(job, hung or f"exit code {process.returncode}")


def _command(job: Job, loopback: str) -> list[str]:
    size = str(job.pretrain.num_workers)
    worker = ["-m", WORKER_MODULE]
    if job.pretrain.launcher == "horovod":
        start = ["-m", HOROVODRUN_MODULE, "--gloo", "-np", size, "--network-interface", loopback]
        patience = ["--start-timeout", str(job.pretrain.timeout_seconds)]
        return [sys.executable, *start, *patience, sys.executable, *worker]
    start = ["-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", size, "--local-addr", "127.0.0.1"]
    meet = ["--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", "--rdzv-id", job.fingerprint]
    return [sys.executable, *start, *meet, "--rdzv-endpoint", str(job.work_folder / RENDEZVOUS_FILE), *worker]


def _in_spark(job: Job, progress: Progress) -> None:
    """horovod.spark or TorchDistributor: the workers are tasks of the Spark job that is running here."""
    pyspark = sys.modules.get("pyspark")  # who has a session has imported it; this package does not
    context = pyspark and pyspark.SparkContext._active_spark_context
    if context is None:
        raise ConfigError(f"pretrain.launcher: '{job.pretrain.launcher}' needs a running Spark session, found none")
    has_gpus = job.pretrain.launcher == "torch_spark" and _has_gpus(job, context.getConf().get(TASK_GPUS, "0"))
    is_done, hangs = threading.Event(), list[str]()

    def watch() -> None:
        if hung := _watch(lambda: not is_done.is_set(), job, progress):
            hangs.append(hung)
            context.cancelAllJobs()

    watcher = threading.Thread(target=watch, name="pretrain progress", daemon=True)
    watcher.start()
    try:
        if job.pretrain.launcher == "horovod_spark":
            _by_horovod(job, is_local=context.master.startswith("local["))
        else:
            _by_torch(job, has_gpus=has_gpus)
    except Exception as error:  # both raise what their workers and Spark raise, and Exception itself
        raise _failure(job, hangs[0] if hangs else str(error)) from error
    finally:
        is_done.set()
        watcher.join()


def _by_horovod(job: Job, *, is_local: bool) -> None:
    import horovod.spark

    with (job.work_folder / LOG_FILE).open("w") as log:
        horovod.spark.run(  # it handles signals, so it must have the main thread
            run_worker_of,
            args=(job.model_dump_json(),),
            num_proc=job.pretrain.num_workers,
            start_timeout=job.pretrain.timeout_seconds,
            use_gloo=True,
            stdout=log,
            stderr=log,
            verbose=0,
            nics={_loopback()} if is_local else None,
        )


def _by_torch(job: Job, *, has_gpus: bool) -> None:
    """Each task starts torchrun for one worker, with the GPUs that Spark gave the task."""
    from pyspark.ml.torch.distributor import TorchDistributor

    distributor = TorchDistributor(num_processes=job.pretrain.num_workers, local_mode=False, use_gpu=has_gpus)
    distributor.run(run_worker_of, job.model_dump_json())


def _has_gpus(job: Job, of_task: str) -> bool:
    """Whether each task of Spark has a GPU, of `of_task` of them, to compute on."""
    if job.pretrain.device == "cpu" or float(of_task) == 0:
        return False
    if float(of_task) != 1:
        raise ConfigError(f"pretrain.launcher torch_spark: expected {TASK_GPUS} 1 or none, found {of_task}")
    return True


def _watch(is_running: Callable[[], bool], job: Job, progress: Progress) -> str:
    """Tell the epochs until the workers are done. Returns what is wrong when they made no progress, '' otherwise."""
    told, started = 0, time.time()
    while True:
        running = is_running()
        told = _tell(job.work_folder / PROGRESS_FILE, told, progress)
        if not running:
            return ""
        beat = job.work_folder / BEAT_FILE
        last = max(started, beat.stat().st_mtime if beat.exists() else 0.0)
        if time.time() - last > job.pretrain.timeout_seconds + GRACE_SECONDS:
            return f"no progress for more than pretrain.timeout_seconds = {job.pretrain.timeout_seconds}"
        time.sleep(POLL_SECONDS)


def _tell(path: Path, told: int, progress: Progress) -> int:
    """Call `progress` with the whole lines of `path` from line `told` on; returns how many have been told."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    for line in lines[told:]:
        progress(EpochRecord.model_validate_json(line))
    return len(lines)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the workers that we started, gently first; nothing is left where they have ended by themselves."""
    if process.poll() is None:
        process.terminate()  # horovodrun and torchrun end their workers then
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(job: Job, what: str) -> CasprError:
    """The first worker's own error, of its own class, or the last lines that the workers wrote."""
    for path in sorted(job.work_folder.glob(ERROR_FILES)):
        described = json.loads(path.read_text())
        kind: type[CasprError] = getattr(errors, described["type"], CasprError)
        return kind(described["message"])
    log = job.work_folder / LOG_FILE
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    ended = next((number for number, line in enumerate(lines, start=1) if FIRST_END in line), len(lines))
    last = "".join(f"\n    {line}" for line in lines[max(0, ended - LAST_LINES) : ended])
    return WorkersFailed(
        f"pretrain.launcher {job.pretrain.launcher}: the workers failed ({what}); run the same command "
        f"again: {saved_until(job.work_folder)}; "
        f"{log} ends with:{last}"
    )


def _loopback() -> str:
    return next(name for _, name in socket.if_nameindex() if name.startswith("lo"))


def _import_path() -> str:
    """Where this package was imported from, for workers that are started elsewhere."""
    return str(Path(caspr_spark.__file__).resolve().parents[1])
