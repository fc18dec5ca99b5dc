"""A real standalone cluster on loopback, and a Python that has the project from dist/caspr_spark.zip alone."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyspark
import pytest

ROOT = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent
NUM_WORKERS = 2
START_SECONDS = 180
STOP_SECONDS = 30


@dataclass(frozen=True)
class Cluster:
    """Where the master listens, and what a job is submitted with."""

    master: str
    environment: dict[str, str]
    py_files: Path
    folder: Path
    workers: tuple[int, ...]
    """Process ids; below each are the executors of the jobs."""

    def submit(self, job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`spark-submit jobs/<job>.py`, started where nothing of the project lies, until it ends."""
        process = self.started(job, *arguments)
        try:
            printed, errors = process.communicate(timeout=900)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, printed, errors)

    def started(self, job: str, *arguments: str, **changes: str) -> "subprocess.Popen[str]":
        """The same, while it runs; `changes` of its settings, with _ for the dots."""
        settings = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.executor.memory": "1g",
            "spark.executor.cores": "1",
            "spark.ui.enabled": "false",
            "spark.sql.shuffle.partitions": "2",
            "spark.databricks.delta.snapshotPartitions": "2",
            **{f"spark.{key.replace('_', '.')}": value for key, value in changes.items()},
        }
        command = [str(SPARK_HOME / "bin" / "spark-submit"), "--master", self.master, "--py-files", str(self.py_files)]
        for key, value in settings.items():
            command += ["--conf", f"{key}={value}"]
        command += [str(ROOT / "jobs" / f"{job}.py"), *arguments]
        started = self.folder / "submitted"
        started.mkdir(exist_ok=True)
        return subprocess.Popen(
            command,
            cwd=started,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and two workers of one core each; they end with the test, whatever happens in it."""
    folder = tmp_path_factory.mktemp("cluster")
    python = _python_without_the_project(folder / "venv")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SPARK_", "PYSPARK_"))}
    environment.pop("PYTHONPATH", None)
    environment |= {
        "SPARK_HOME": str(SPARK_HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "SPARK_LOG_DIR": str(folder / "logs"),
        "SPARK_WORKER_DIR": str(folder / "work"),
        "SPARK_DAEMON_MEMORY": "256m",
        "PYSPARK_PYTHON": str(python),
        "PYSPARK_DRIVER_PYTHON": str(python),
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        # Port 0: the kernel gives a free one, and the log says which.
        log = folder / "master.log"
        started.append(_started("master.Master", log, environment, "--port", "0"))
        master = _awaited(r"Starting Spark master at (spark://127\.0\.0\.1:\d+)", log, started)[0]
        for number in range(NUM_WORKERS):  # on two hosts, or no task is tried on the other one while it still runs
            host = ["--host", f"127.0.0.{number + 1}"]
            options = ["--cores", "1", "--memory", "1536m", "--work-dir", str(folder / "work" / str(number)), master]
            log_file = folder / f"worker-{number}.log"
            started.append(_started("worker.Worker", log_file, environment, *host, *options))
        _awaited(r"Registering worker", log, started, times=NUM_WORKERS)
        workers = tuple(process.pid for process in started[1:])
        yield Cluster(master, environment, _py_files(folder / "source"), folder, workers)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(daemon: str, log: Path, environment: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    """spark-class becomes the JVM (exec), so the process is the daemon itself."""
    command = [str(SPARK_HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{daemon}"]
    command += ["--host", "127.0.0.1", "--webui-port", "0", *options]  # the last --host wins
    with log.open("wb") as file:
        return subprocess.Popen(
            command, env=environment, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )


def _awaited(pattern: str, log: Path, started: list[subprocess.Popen[bytes]], *, times: int = 1) -> list[str]:
    """The first groups of `pattern` in `log`, once it stands there often enough."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = re.findall(pattern, log.read_text(errors="replace"))
        if len(found) >= times:
            return found
        ended = [process.args for process in started if process.poll() is not None]
        assert not ended, f"{ended} ended; {log} ends with {log.read_text(errors='replace')[-2000:]}"
        time.sleep(0.2)
    pytest.fail(f"{log}: not {times} times {pattern!r} in {START_SECONDS} s: {log.read_text(errors='replace')[-2000:]}")


def _py_files(source: Path) -> Path:
    """dist/caspr_spark.zip as `make dist` makes it, from a copy, so that the checkout stays as it is."""
    for package in ("caspr_spark", "pipelines", "schemas", "jobs", "conf", "tools"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "constraints.txt", "MANIFEST.in", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "tools/make_dist.py"], cwd=source, check=True, stdin=subprocess.DEVNULL)
    return source / "dist" / "caspr_spark.zip"


def _python_without_the_project(environment: Path) -> Path:
    """All packages of the running environment but the project: what is imported of it comes from the zip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    target = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(environment)}))
    # A plain path line: the .pth files in there are not read, so the editable install of the project is not seen.
    (target / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    python = environment / "bin" / "python"
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    probe = subprocess.run([str(python), "-c", "import caspr_spark"], cwd=environment, env=bare, capture_output=True)
    assert probe.returncode, "the project is importable without the zip"
    return python
