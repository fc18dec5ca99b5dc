"""Say all that this machine lacks, in one message, before anything is downloaded. Exit status 2 if it lacks something.

Standard library only, and old syntax only: on a Python 3.6 it must get as far as saying that 3.11 is needed.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON_WANTED = (3, 11)
JAVA_WANTED = (17, 21)
CMAKE_OLDEST = (3, 13)
CMAKE_TOO_NEW = (4, 0)

# GB, measured on a first run: what is there at the end, the wheels that pip holds meanwhile, and those that it keeps.
VENV_GB = 6.8
PIP_TEMPORARY_GB = 3.0
PIP_CACHE_GB = 0.0 if os.environ.get("PIP_NO_CACHE_DIR") else 3.5
RUN_GB = 1.0


def main():
    parser = argparse.ArgumentParser(description="Check this machine before `make TARGET` downloads anything.")
    parser.add_argument("target", choices=["demo", "check", "test"])
    parser.add_argument("--need-gb", type=float, help="free disk to ask for, instead of the measured need")
    options = parser.parse_args()

    problems = python_problems() + java_problems() + disk_problems(options.need_gb)
    if options.target == "test":
        problems += c_compiler_problems()
        if not horovod_is_cached():
            problems += compiler_problems()
    if not problems:
        return 0
    lines = ["This machine is not ready for `make {}`; nothing was downloaded.".format(options.target)]
    for what, found, needed, how in problems:
        lines += ["", "  " + what, "    found:  " + found, "    needed: " + needed, "    get it: " + how]
    print("\n".join(lines), file=sys.stderr)
    return 2


def python_problems():
    problems = []
    found = "{} at {}".format(platform.python_version(), sys.executable)
    if sys.version_info[:2] != PYTHON_WANTED:
        needed = "3.11, the one that the pinned versions were tested with"
        how = (
            "Debian 12: apt install python3.11 python3.11-venv; other systems: pyenv, uv or python.org; "
            "then, if it is not the first on PATH, make PYTHON=/path/to/python3.11"
        )
        problems.append(("Python", found, needed, how))
    elif not has_module("venv") or not has_module("ensurepip"):
        how = "Debian/Ubuntu: apt install python3.11-venv; other systems: a complete Python 3.11"
        problems.append(("Python's venv", found + ", without venv or ensurepip", "both modules", how))
    if sys.maxsize < 2**32:
        problems.append(("Python", found + ", 32 bits", "64 bits", "a 64 bit Python 3.11"))
    return problems


def java_problems():
    needed = "17 or 21, for Spark 4"
    how = (
        "Debian/Ubuntu: apt install openjdk-17-jre-headless; Fedora: dnf install java-21-openjdk-headless; "
        "macOS: brew install openjdk@17; other systems: Eclipse Temurin 17; or point JAVA_HOME to one that is there"
    )
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if java is None:
        return [("Java", "none: JAVA_HOME is not set and no java is on PATH", needed, how)]
    said = output_of([java, "-version"])
    if said is None:
        return [("Java", "{} cannot be run{}".format(java, " (from JAVA_HOME)" if home else ""), needed, how)]
    version = re.search(r'version "(\d+)(?:\.(\d+))?', said)
    if version is None:
        first_line = said.strip().splitlines()[:1] or ["nothing"]
        return [("Java", "{} says: {}".format(java, first_line[0]), needed, how)]
    major = int(version.group(2) or 0) if version.group(1) == "1" else int(version.group(1))
    if major not in JAVA_WANTED:
        return [("Java", "{} at {}{}".format(major, java, " (from JAVA_HOME)" if home else ""), needed, how)]
    return []


def disk_problems(need_gb):
    """Free space where the environment, pip's temporary files and pip's cache will lie, summed by file system."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if need_gb is not None:
        needs = [(ROOT, need_gb)]
    elif any(
        os.path.exists(os.path.join(ROOT, ".venv", ".stamps", "packages-" + level)) for level in ("demo", "check")
    ):
        needs = [(ROOT, RUN_GB)]
    else:
        needs = [(ROOT, VENV_GB + RUN_GB), (tempfile.gettempdir(), PIP_TEMPORARY_GB), (cache, PIP_CACHE_GB)]
    by_file_system = {}
    for path, gigabytes in needs:
        while not os.path.exists(path):
            path = os.path.dirname(path)
        place = by_file_system.setdefault(os.stat(path).st_dev, [path, 0.0])
        place[1] += gigabytes
    problems = []
    for path, gigabytes in sorted(by_file_system.values()):
        free = shutil.disk_usage(path).free / 1e9
        if free < gigabytes:
            found = "{:.1f} GB free at {}".format(free, path)
            needed = "{:.1f} GB (the pinned packages take {} GB of it)".format(gigabytes, VENV_GB)
            how = (
                "free some, or clone onto a larger disk; TMPDIR moves pip's temporary files, XDG_CACHE_HOME its cache, "
                "and PIP_NO_CACHE_DIR=1 does without that cache (3.5 GB less)"
            )
            problems.append(("Disk", found, needed, how))
    return problems


def c_compiler_problems():
    """The tests compare what is compiled with torch, which computes it where nothing compiles."""
    if shutil.which("cc") is not None:
        return []
    how = "Debian/Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install"
    return [("cc", "none on PATH", "any C compiler, for the tests", how)]


def compiler_problems():
    """What the one build needs: PyPI has no Horovod wheel. Only `make test` gets here, not `make demo`."""
    why = "to build the Horovod wheel, once"
    problems = []
    for command, package in (("g++", "g++"), ("make", "make")):
        if shutil.which(command) is None:
            how = "Debian/Ubuntu: apt install {}; Fedora: dnf install gcc-c++ make; macOS: xcode-select --install"
            how = how.format(package)
            problems.append((command, "none on PATH", "any that compiles C++17, " + why, how))
    how = "Debian/Ubuntu: apt install cmake; other systems: pip install 'cmake<4' somewhere on PATH"
    needed = "3.13 or newer, and older than 4, " + why
    cmake = shutil.which("cmake")
    if cmake is None:
        problems.append(("cmake", "none on PATH", needed, how))
    else:
        version = re.search(r"version (\d+)\.(\d+)", output_of([cmake, "--version"]) or "")
        numbers = (int(version.group(1)), int(version.group(2))) if version else (0, 0)
        if not CMAKE_OLDEST <= numbers < CMAKE_TOO_NEW:
            problems.append(("cmake", "{}.{} at {}".format(numbers[0], numbers[1], cmake), needed, how))
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    if not os.path.exists(header):
        how = "Debian/Ubuntu: apt install python3.11-dev; Fedora: dnf install python3.11-devel"
        problems.append(("Python.h", "no " + header, "the C headers of Python 3.11, " + why, how))
    return problems


def horovod_is_cached():
    environment = dict(os.environ, PYTHON=sys.executable)
    command = ["bash", os.path.join(ROOT, "tools", "build_horovod.sh"), "--cached"]
    return subprocess.call(command, env=environment, stdin=subprocess.DEVNULL) == 0


def has_module(name):
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def output_of(command):
    """Standard output and error of a command; None if it cannot be run or fails."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
