"""C of our own, compiled where it runs by the machine's compiler, once, and kept in the user's cache.

What it computes torch can as well, more slowly: where there is no compiler, or none that gives a library that can be
loaded, `library` is None and the caller takes torch's way. CASPR_SPARK_NATIVE=off is as no compiler.
"""

import ctypes
import hashlib
import logging
import os
import shlex
import stat
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

SWITCH = "CASPR_SPARK_NATIVE"
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-lm")
TIMEOUT_SECONDS = 120


class _NotCompiledError(Exception):
    """Says why."""


@cache
def library(package: str, name: str) -> ctypes.CDLL | None:
    """The library of the C file `name` of a package. None, and a line in the log that says why, where there is none."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return None
    try:
        return ctypes.CDLL(str(_compiled(resources.files(package).joinpath(name).read_bytes(), Path(name).stem)))
    except (_NotCompiledError, OSError) as error:
        logging.getLogger(__name__).warning("%s was not compiled, torch computes the same more slowly: %s", name, error)
        return None


def _compiled(source: bytes, stem: str) -> Path:
    """The library's file. Its name tells the source, the compiler, and the processor that it was compiled for."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    target = _said([*compiler, "-march=native", "-dM", "-E", "-x", "c", "-"], b"")
    version = hashlib.sha256(b"\0".join([source, target, " ".join([*compiler, *FLAGS]).encode()])).hexdigest()[:32]
    file = _cache_folder() / f"{stem}-{version}.so"
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            made = Path(folder) / file.name
            _said([*compiler, "-x", "c", "-", "-o", str(made), *FLAGS], source)
            made.replace(file)  # whole or absent, whoever else compiles it
    return file


def _cache_folder() -> Path:
    """A folder that nobody else can write to: what is loaded from it is run."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "caspr-spark" / "native"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _NotCompiledError(f"{folder}: others can write to it; `chmod 700` it, or set XDG_CACHE_HOME")
    return folder


def _said(command: list[str], given: bytes) -> bytes:
    """What a compiler prints."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _NotCompiledError(f"no C compiler: {error}") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise _NotCompiledError(f"{command[0]} failed: {''.join(last)}")
    return done.stdout
