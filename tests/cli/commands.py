"""The command line as processes of their own, to be killed and watched."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPLETE_JOURNEY = ROOT / "conf" / "complete_journey.yaml"
LONG_SECONDS = 300


def started(*arguments: str, overlay: Path, **environment: str) -> "subprocess.Popen[str]":
    """`caspr-spark` with the declaration of Complete Journey and `overlay`; what it prints comes as one text."""
    configs = ["--config", str(COMPLETE_JOURNEY), "--config", str(overlay)]
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments, *configs],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and what was printed."""
    printed, _ = process.communicate(timeout=LONG_SECONDS)
    return process.returncode, printed


def overlay_for(root: Path, **sections: Any) -> Path:
    """An overlay beside the root, for the planted model of 8 numbers."""
    place = root.parent / f"{root.name}.yaml"
    place.write_text(yaml.safe_dump({"root": str(root), "model": {"embedding_size": 8}} | sections))
    return place


def descendants(process: "subprocess.Popen[str]", word: str) -> list[psutil.Process]:
    """Processes below this one with `word` in their command line, in the order in which they were started."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if word in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda child: child.create_time())


def wait_until(condition: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    """The first true value of `condition`; the test fails where the process ends or nothing happens before."""
    deadline = time.monotonic() + LONG_SECONDS
    while not (value := condition()):
        assert process.poll() is None, f"it ended too early:\n{ended(process)[1][-3000:]}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    return value
