"""The wheel holds the whole project: installed alone, each of its modules imports and conf/base.yaml is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("caspr_spark", "pipelines", "schemas", "jobs", "conf")

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import caspr_spark
print(caspr_spark.__file__)
"""
READ_BASE = """
from importlib.resources import files
import conf
print(conf.__file__)
print(len((files("conf") / "base.yaml").read_text(encoding="utf-8")))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what goes into a build, so that building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "constraints.txt", "MANIFEST.in", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def dist(source: Path) -> Path:
    """dist/ as `make dist` makes it."""
    subprocess.run([sys.executable, "tools/make_dist.py"], cwd=source, check=True, stdin=subprocess.DEVNULL)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment: the project from the wheel, all else borrowed from the running environment."""
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    target = sysconfig.get_path("purelib", "venv", vars={"base": str(environment)})
    pip_install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip_install, str(wheel)], check=True, stdin=subprocess.DEVNULL)
    # A plain path line: the .pth files in there are not read, so the editable install of the project is not seen.
    (Path(target) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def module_names(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as opened:
        files = [Path(name) for name in opened.namelist() if name.endswith(".py")]
    return sorted(".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in files)


def canonical(requirement: str) -> str:
    return requirement.replace("_", "-").lower().strip()


def test_every_module_of_the_wheel_imports_where_only_the_wheel_is(
    fresh_python: Path, wheel: Path, tmp_path: Path
) -> None:
    names = [name for name in module_names(wheel) if not name.endswith("__main__")]
    assert set(PACKAGES) <= set(names)
    done = subprocess.run(
        [str(fresh_python), "-c", IMPORT_ALL, *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported_from = Path(done.stdout.splitlines()[-1])
    assert imported_from.is_relative_to(fresh_python.parents[1])


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        packaged = {name for name in opened.namelist() if ".dist-info/" not in name}
    written = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ROOT / "conf" / "schedules" not in path.parents
    }
    assert packaged == written


def test_wheel_requires_exactly_the_constraints(wheel: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonical(line) for line in lines if "==" in line and not line.startswith("#")}
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        lines = opened.read(metadata).decode().splitlines()
    prefix = "Requires-Dist: "
    required = {canonical(line.removeprefix(prefix).partition(";")[0]) for line in lines if line.startswith(prefix)}
    assert required
    assert required <= pins


@pytest.mark.parametrize("kind", ["wheel", "zip"])
def test_base_configuration_is_found(kind: str, fresh_python: Path, dist: Path, tmp_path: Path) -> None:
    expected = len((ROOT / "conf" / "base.yaml").read_text(encoding="utf-8"))
    command = [str(fresh_python), "-c", READ_BASE]
    environment = {}
    if kind == "zip":
        # No installed copy can answer: -S leaves out site-packages altogether.
        command.insert(1, "-S")
        environment["PYTHONPATH"] = str(dist / "caspr_spark.zip")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found_in, num_characters = done.stdout.splitlines()
    assert found_in.startswith(str(dist / "caspr_spark.zip") if kind == "zip" else str(fresh_python.parents[1]))
    assert int(num_characters) == expected
