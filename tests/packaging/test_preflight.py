"""Preflight says what is missing, with status 2, before anything is made or downloaded."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What make, the shell and the tools need on PATH; no java, no cmake, no compiler.
BASICS = ("bash", "sh", "make", "env", "sed", "awk", "find", "head", "dirname", "mkdir", "cat", "rm", "uname", "mktemp")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what `make setup` reads."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "constraints.txt", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def path_folder(tmp_path: Path) -> Path:
    """The only folder on PATH: the basic commands, to which a test adds the java it wants."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in BASICS:
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    return folder


def add_command(folder: Path, name: str, says: str) -> None:
    script = folder / name
    script.write_text(f"#!/bin/sh\necho '{says}' >&2\n", encoding="utf-8")
    script.chmod(0o755)


def make(target: str, checkout: Path, path_folder: Path) -> subprocess.CompletedProcess[str]:
    """Run make with an empty cache and no way to any package index."""
    environment = {
        "PATH": str(path_folder),
        "HOME": str(checkout.parent / "home"),
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_NO_INDEX": "1",
    }
    command = ["make", target, f"PYTHON={base_python()}"]
    return subprocess.run(
        command, cwd=checkout, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def preflight(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"}
    if path is not None:
        environment["PATH"] = path
    command = [base_python(), str(ROOT / "tools" / "preflight.py"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def base_python() -> str:
    """The Python that the environment was made from."""
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}")


@pytest.mark.parametrize(
    ("java_says", "found"),
    [('openjdk version "11.0.2" 2019-01-15', "11 at"), ('java version "1.8.0_392"', "8 at"), (None, "none: JAVA_HOME")],
)
def test_make_stops_at_a_wrong_or_missing_java(
    java_says: str | None, found: str, checkout: Path, path_folder: Path
) -> None:
    if java_says:
        add_command(path_folder, "java", java_says)
    done = make("demo", checkout, path_folder)
    assert done.returncode == 2
    assert f"found:  {found}" in done.stderr
    assert "17 or 21" in done.stderr
    assert "openjdk-17-jre-headless" in done.stderr
    assert not (checkout / ".venv").exists()
    assert not (checkout.parent / "home").exists()


@pytest.mark.parametrize("version", ["17.0.15", "21", "21.0.1-ea"])
def test_java_that_spark_takes_is_accepted(version: str, path_folder: Path) -> None:
    add_command(path_folder, "java", f'openjdk version "{version}" 2025-04-15')
    done = preflight("demo", "--need-gb", "0", path=str(path_folder))
    assert (done.returncode, done.stderr) == (0, "")


def test_java_home_goes_before_path(path_folder: Path, tmp_path: Path) -> None:
    add_command(path_folder, "java", 'openjdk version "17.0.15"')
    (tmp_path / "old" / "bin").mkdir(parents=True)
    add_command(tmp_path / "old" / "bin", "java", 'openjdk version "11.0.2"')
    environment = {"PATH": str(path_folder), "JAVA_HOME": str(tmp_path / "old")}
    command = [base_python(), str(ROOT / "tools" / "preflight.py"), "demo", "--need-gb", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "(from JAVA_HOME)" in done.stderr


def test_too_little_disk_is_said() -> None:
    done = preflight("demo", "--need-gb", "1000000")
    assert done.returncode == 2
    assert "Disk" in done.stderr
    assert "needed: 1000000.0 GB" in done.stderr


def test_compiler_is_asked_for_by_test_alone_and_all_problems_come_at_once(checkout: Path, path_folder: Path) -> None:
    demo, test = (make(target, checkout, path_folder) for target in ("setup", "setup-dev"))
    assert "cmake" not in demo.stderr
    assert test.returncode == 2
    for what in ("Java", "g++", "cmake"):
        assert f"\n  {what}\n" in test.stderr
    assert not (checkout / ".venv").exists()


def test_cmake_4_is_refused(checkout: Path, path_folder: Path) -> None:
    add_command(path_folder, "java", 'openjdk version "17.0.15"')
    add_command(path_folder, "g++", "g++ 12")
    add_command(path_folder, "cmake", "cmake version 4.1.0")
    done = make("setup-dev", checkout, path_folder)
    assert done.returncode == 2
    assert "found:  4.1 at" in done.stderr
    assert "older than 4" in done.stderr


def test_another_python_is_told_what_is_needed() -> None:
    pretend = "import runpy, sys; script = sys.argv.pop(1); sys.version_info = (3, 6, 15); sys.argv[0] = script;"
    pretend += "runpy.run_path(script, run_name='__main__')"
    script = str(ROOT / "tools" / "preflight.py")
    done = subprocess.run([base_python(), "-c", pretend, script, "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "3.11, the one that the pinned versions were tested with" in done.stderr


def test_preflight_is_written_in_the_python_that_old_systems_have() -> None:
    text = (ROOT / "tools" / "preflight.py").read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 6))
    assert "from __future__ import annotations" not in text  # unknown to 3.6, and not found by the parser
