"""What benchmarks tell of a run beside its time: memory, versions, machine."""

import os
import platform
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from caspr_spark import __version__

SAMPLE_SECONDS = 0.2
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


class PeakMemory:
    """The largest resident set of the process tree, and of any process in it, in MiB, since the last `restart`."""

    def __init__(self) -> None:
        self._peak, self._largest = 0.0, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak memory", daemon=True)
        self._thread.start()

    def restart(self) -> None:
        self._peak, self._largest = 0.0, 0.0
        self._sample()

    def mib(self) -> float:
        self._sample()
        return self._peak

    def largest_process_mib(self) -> float:
        self._sample()
        return self._largest

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        found = rss_mib_of_tree(os.getpid())
        self._peak, self._largest = max(self._peak, sum(found)), max(self._largest, *found, 0.0)


def rss_mib_of_tree(top: int) -> list[float]:
    """Resident MiB of the process `top` and of each that descends from it, as /proc tells it."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            pages[int(folder.name)] = int((folder / "statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        parents[int(folder.name)] = int(after_name[1])
    tree = {top}
    while found := {process for process, parent in parents.items() if parent in tree} - tree:
        tree |= found
    return [pages.get(process, 0) * PAGE_MIB for process in tree]


def versions() -> dict[str, str]:
    return {
        "caspr_spark": __version__,
        "python": platform.python_version(),
        "spark": version("pyspark"),
        "torch": version("torch"),
        "delta": version("delta-spark"),
    }


def machine() -> dict[str, Any]:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory_gib, 1), "cpu": _cpu_model()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
