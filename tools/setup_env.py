"""Make .venv what a target needs: demo < check < test. Safe to repeat; a stopped run is continued.

Each step leaves a stamp, last and atomically, that holds the fingerprint of what the step was made from. A step whose
stamp still says the same is skipped, so an unchanged environment costs a fraction of a second.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
CONSTRAINTS = ROOT / "constraints.txt"

PIP_INSTALL = [str(VENV_PYTHON), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
PIP_INSTALL += ["--progress-bar=off"]

DEMO_EXTRAS = ("train", "gate", "report", "demo")
DEV_EXTRAS = (*DEMO_EXTRAS, "tensorboard", "onnx", "horovod", "dev")
EXTRAS = {"demo": DEMO_EXTRAS, "check": DEV_EXTRAS, "test": DEV_EXTRAS}
SATISFIED_BY = {"demo": ("demo", "check"), "check": ("check",), "test": ("check",)}  # the package stamps that will do


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in EXTRAS:
        print(f"usage: setup_env.py {'|'.join(EXTRAS)}", file=sys.stderr)
        return 2
    level = sys.argv[1]
    with Path(__file__).open() as lock:
        one_at_a_time(lock)
        make_venv()
        install_packages(level)
        delta_jars()
        if level == "test":
            install_horovod()
    return 0


def one_at_a_time(lock: IO[str]) -> None:
    """A second make in this checkout waits for the first; the kernel frees the lock however a process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another make sets this environment up; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)


def make_venv() -> None:
    """A working .venv of this Python at this place, with the pinned pip, setuptools and wheel."""
    tools = [f"{name}=={pin(name)}" for name in ("pip", "setuptools", "wheel")]
    fingerprint = fingerprint_of(sys.version, str(VENV), *tools)
    if stamped("venv", fingerprint) and VENV_PYTHON.exists():
        return
    is_ours = f"import sys, pip; sys.exit(sys.version != {sys.version!r} or sys.prefix != {str(VENV)!r})"
    if not runs(VENV_PYTHON, is_ours):
        if VENV.exists():
            say("environment in .venv is unfinished or of another Python: making it again")
        say(f"making .venv with Python {sys.version.split()[0]}")
        shutil.rmtree(VENV / ".stamps", ignore_errors=True)  # first: a stop in the middle must not leave old stamps
        shutil.rmtree(VENV, ignore_errors=True)
        run([sys.executable, "-m", "venv", str(VENV)])
    run([*PIP_INSTALL, *tools])
    stamp("venv", fingerprint)


def install_packages(level: str) -> None:
    """The project, editable, with the extras of `level`, at the versions of constraints.txt."""
    files = [CONSTRAINTS, ROOT / "setup.py", ROOT / "caspr_spark" / "__init__.py"]
    fingerprint = fingerprint_of(*(path.read_text(encoding="utf-8") for path in files), str(ROOT))
    if any(stamped(f"packages-{stamp_level}", fingerprint) for stamp_level in SATISFIED_BY[level]):
        return
    extras = ",".join(EXTRAS[level])
    is_first = not any((VENV / ".stamps").glob("packages-*"))
    cost = "about 3 GB to download, 2-4 min" if is_first else "what changed"
    say(f"installing the pinned packages [{extras}] ({cost}; log: .venv/setup.log)")
    started = time.monotonic()
    forget_half_installed()
    # Build isolation asks for the newest setuptools; the pinned one is already there, and is what was tested.
    run([*PIP_INSTALL, "--no-build-isolation", "-c", str(CONSTRAINTS), "--editable", f"{ROOT}[{extras}]"])
    run([str(VENV_PYTHON), "-m", "pip", "check"])
    stamp(f"packages-{SATISFIED_BY[level][0]}", fingerprint)
    say(f"packages installed in {time.monotonic() - started:.0f} s")


def forget_half_installed() -> None:
    """A package without its RECORD was being unpacked when pip was stopped; pip would take it for installed."""
    for folder in VENV.glob("lib/python*/site-packages/*.dist-info"):
        if not (folder / "RECORD").exists():
            shutil.rmtree(folder)


def delta_jars() -> None:
    run([str(VENV_PYTHON), str(ROOT / "tools" / "install_delta_jars.py")], quiet=False)


def install_horovod() -> None:
    """The Horovod wheel, built on first need and kept in the user's cache."""
    build = ["bash", str(ROOT / "tools" / "build_horovod.sh")]
    where = subprocess.run([*build, "--where"], check=True, capture_output=True, text=True, env=build_environment())
    fingerprint = fingerprint_of(Path(where.stdout.strip()).name, CONSTRAINTS.read_text(encoding="utf-8"))
    if stamped("horovod", fingerprint):
        return
    built = subprocess.run(build, stdout=subprocess.PIPE, text=True, env=build_environment())
    if built.returncode:
        raise SystemExit(1)
    wheel = built.stdout.strip()
    say(f"installing {Path(wheel).name}")
    run([*PIP_INSTALL, "-c", str(CONSTRAINTS), "--no-index", "--no-deps", "--force-reinstall", wheel])
    run([str(VENV_PYTHON), "-c", "import horovod.torch"])
    stamp("horovod", fingerprint)


def build_environment() -> dict[str, str]:
    return {**os.environ, "PYTHON": str(VENV_PYTHON)}


def run(command: list[str], *, quiet: bool = True) -> None:
    """Run one command; its output goes to the log (or, not quiet, to the screen). Ends this program if it fails."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        log.flush()
        output = log if quiet else None
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT).returncode
    if code and quiet:
        tail = LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        print("setup failed; the last lines of .venv/setup.log:", *tail, sep="\n  ", file=sys.stderr)
        print("Nothing is lost: the same make command goes on from here.", file=sys.stderr)
    if code:
        raise SystemExit(1)


def runs(python: Path, code: str) -> bool:
    return python.exists() and subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def pin(name: str) -> str:
    """The version of `name` in constraints.txt."""
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line.partition("==")[0] == name:
            return line.partition("==")[2].strip()
    raise SystemExit(f"constraints.txt: no line `{name}==…`")


def fingerprint_of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def stamped(name: str, fingerprint: str) -> bool:
    path = VENV / ".stamps" / name
    return path.exists() and path.read_text(encoding="utf-8") == fingerprint


def stamp(name: str, fingerprint: str) -> None:
    path = VENV / ".stamps" / name
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(fingerprint, encoding="utf-8")
    unfinished.replace(path)


def say(line: str) -> None:
    print(f"setup: {line}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nsetup: stopped; the same make command goes on from here.", file=sys.stderr)
        sys.exit(130)
