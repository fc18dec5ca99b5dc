"""Make an environment for another system that cannot live in ours, and print the path of its Python.

    neighbour_env.py tests/publish/feast-0.67.0.txt

The file lists every package with its version; its name is the name of the environment, which is made once per user in
the user's cache. Safe to repeat, to run twice at once, and to stop: what is unfinished is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main() -> int:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        print("usage: neighbour_env.py FILE_OF_REQUIREMENTS", file=sys.stderr)
        return 2
    requirements = Path(sys.argv[1]).resolve()
    folder = cache_folder() / requirements.stem
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(folder.suffix + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel frees it however this process ends
        return make(folder, requirements)


def make(folder: Path, requirements: Path) -> int:
    """The environment, unless its stamp says that it was made of the same file by the same Python."""
    stamp = folder / "made-of"
    fingerprint = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != fingerprint:
        print(f"neighbour: making {folder.name} (a minute or two)", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--no-input",
            "--disable-pip-version-check",
            "--progress-bar=off",
        ]
        for command in ([sys.executable, "-m", "venv", str(folder)], [*install, "-r", str(requirements)]):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                tail = "\n  ".join((done.stdout + done.stderr).splitlines()[-15:])
                print(f"neighbour: {folder.name} could not be made; the last lines:\n  {tail}", file=sys.stderr)
                return 1
        stamp.write_text(fingerprint, encoding="utf-8")
    print(python)
    return 0


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caspr-spark"


if __name__ == "__main__":
    sys.exit(main())
