"""The two Delta JARs are checked by content, mended from the cache, and never taken from a file that was not tested."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pyspark
import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = Path(pyspark.__file__).parent / "jars"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/install_delta_jars.py, unable to fetch anything."""
    spec = importlib.util.spec_from_file_location("install_delta_jars", ROOT / "tools" / "install_delta_jars.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESOLVE", "print('no network here')")
    return module


@pytest.fixture
def cache(tool: ModuleType, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    for jar in tool.JARS:
        shutil.copy(INSTALLED / jar.file_name, folder / jar.file_name)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "jars"
    folder.mkdir()
    return folder


def test_new_environment_takes_the_jars_from_the_cache(tool: ModuleType, cache: Path, target: Path) -> None:
    assert tool.install(target, cache) == 0
    assert {path.name for path in target.iterdir()} == {jar.file_name for jar in tool.JARS}


def test_damaged_and_older_jars_are_replaced(tool: ModuleType, cache: Path, target: Path) -> None:
    damaged = target / tool.JARS[0].file_name
    damaged.write_bytes(b"\0" * tool.JARS[0].num_bytes)
    (target / "delta-storage-3.0.0.jar").write_bytes(b"older")
    assert tool.install(target, cache) == 0
    assert {path.name for path in target.iterdir()} == {jar.file_name for jar in tool.JARS}
    assert tool.is_intact(damaged, tool.JARS[0])


def test_without_cache_and_network_it_says_what_spark_said(
    tool: ModuleType, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.install(target, tmp_path / "empty") == 1
    said = capsys.readouterr().err
    assert tool.JARS[0].file_name in said
    assert "no network here" in said
    assert list(target.iterdir()) == []


def test_fetched_file_with_other_content_is_refused(
    tool: ModuleType, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched = tmp_path / "cache" / "ivy" / "jars" / f"io.delta_{tool.JARS[0].file_name}"
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"something else")
    assert tool.install(target, tmp_path / "cache") == 1
    assert tool.JARS[0].sha256 in capsys.readouterr().err
    assert list(target.iterdir()) == []
