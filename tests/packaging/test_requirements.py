"""What the code imports is declared, and what is installed is pinned."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("caspr_spark", "pipelines", "schemas", "jobs", "conf")
# Not on PyPI as a wheel, so no requirement can name it: `make setup-dev` installs what tools/build_horovod.sh builds.
BUILT_BY_US = {"horovod"}
# Programs that something else runs, in an environment of its own; not part of the wheel.
RUN_ELSEWHERE = "conf/schedules/"
# The parts that may be imported at run time; `dev` is for the tests and tools alone.
RUN_TIME_EXTRAS = ("train", "gate", "report", "demo", "tensorboard", "onnx", "horovod")


@pytest.fixture(scope="module")
def setup_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def third_party_imports() -> dict[str, list[str]]:
    """Top-level name -> the files that import it, for names that are neither ours nor Python's."""
    users: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.relative_to(ROOT).as_posix().startswith(RUN_ELSEWHERE):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names = [node.module]
                for top in {name.partition(".")[0] for name in names}:
                    if top not in PACKAGES and top not in sys.stdlib_module_names:
                        users.setdefault(top, []).append(str(path.relative_to(ROOT)))
    return users


def test_every_third_party_import_is_declared(setup_py: ModuleType) -> None:
    names = [*setup_py.CORE, *(name for extra in RUN_TIME_EXTRAS for name in setup_py.EXTRAS[extra])]
    declared = {setup_py.canonical(name) for name in names}
    distributions = packages_distributions()
    undeclared = {
        top: files
        for top, files in third_party_imports().items()
        if top not in BUILT_BY_US
        and not declared & {setup_py.canonical(distribution) for distribution in distributions.get(top, [])}
    }
    assert undeclared == {}


def test_what_is_installed_is_what_is_pinned(setup_py: ModuleType) -> None:
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--all", "--exclude-editable", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    pins = setup_py.tested_versions()
    not_ours = [line for line in frozen if not line.startswith(("caspr-spark", "caspr_spark", "horovod @", "#"))]
    assert len(not_ours) > 50
    differs = []
    for line in not_ours:
        name, _, version = line.partition("==")
        if pins.get(setup_py.canonical(name)) != version:
            differs.append(f"{line}: pinned {pins.get(setup_py.canonical(name))}")
    assert differs == []


def test_versions_stand_in_the_constraints_alone(setup_py: ModuleType) -> None:
    names = "|".join(sorted(setup_py.tested_versions()))
    requirement = re.compile(rf"\b({names})(\[[\w,]*\])? ?(==|>=|~=|<=?) ?\d", re.IGNORECASE)
    files = [ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run"]
    written_elsewhere = [
        f"{path.name}:{number}: {line.strip()}"
        for path in (*files, *(ROOT / "tools").iterdir())
        if path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if requirement.search(line)
    ]
    assert written_elsewhere == []
