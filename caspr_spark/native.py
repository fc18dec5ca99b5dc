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
from threading import Lock

SWITCH = "CASPR_SPARK_NATIVE"
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-lm")
TIMEOUT_SECONDS = 120
_lock = Lock()


class _NotCompiledError(Exception):
    """Says why."""


def library(package: str, name: str) -> ctypes.CDLL | None:
    """The library of the C file `name` of a package, the same for all threads.

    None where there is none, and a line in the log that says why, unless it was switched off.
    """
    with _lock:
        return _library(package, name)


@cache
def _library(package: str, name: str) -> ctypes.CDLL | None:
    if os.environ.get(SWITCH, "").lower() in ("off", "0", "false", "no"):
        return None
    try:
        source = resources.files(package).joinpath(name).read_bytes()
        file = _file_of(source, Path(name).stem)
        if file.exists():
            try:
                return _loaded(file)
            except OSError:  # written when the machine went down
                file.unlink()
        _compile(source, file)
        return _loaded(file)
    except (_NotCompiledError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: no home, ValueError: CC
        logging.getLogger(__name__).warning("%s was not compiled, torch computes the same more slowly: %s", name, error)
        return None


def _file_of(source: bytes, stem: str) -> Path:
    """The library's file. Its name tells the source, the compiler, and the processor that it is compiled for."""
    target = _said([*_compiler(), "-march=native", "-dM", "-E", "-x", "c", "-"], b"")
    version = hashlib.sha256(b"\0".join([source, target, " ".join([*_compiler(), *FLAGS]).encode()])).hexdigest()[:32]
    return _cache_folder() / f"{stem}-{version}.so"


def _compile(source: bytes, file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        _said([*_compiler(), "-x", "c", "-", "-o", str(made), *FLAGS], source)
        made.replace(file)  # whole or absent, whoever else compiles it


def _compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or "cc")


def _loaded(file: Path) -> ctypes.CDLL:
    _check_own(file)
    return ctypes.CDLL(str(file))


def _cache_folder() -> Path:
    """A folder that nobody else can write to: what is loaded from it is run."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else Path.home() / ".cache"
    folder = base / "caspr-spark" / "native"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_own(folder)
    return folder


def _check_own(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _NotCompiledError(f"{path}: others can write to it; take that from them, or set XDG_CACHE_HOME")


def _said(command: list[str], given: bytes) -> bytes:
    """What a compiler prints."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
    except OSError as error:
        raise _NotCompiledError(f"no C compiler: {error}") from None
    except subprocess.TimeoutExpired:
        raise _NotCompiledError(f"{command[0]} took more than {TIMEOUT_SECONDS} seconds") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        why = next((line for line in lines if "error" in line), lines[-1])
        raise _NotCompiledError(f"{command[0]} failed: {why}")
    return done.stdout
