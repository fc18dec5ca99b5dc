"""C that is compiled where it runs, or left out."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from caspr_spark import native

PACKAGE, FILE = "caspr_spark.model", "kernels.c"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native.library.cache_clear()
    yield tmp_path / "caspr-spark" / "native"
    native.library.cache_clear()


def test_it_is_compiled_once_for_nobody_else_to_write_to(cache: Path) -> None:
    assert native.library(PACKAGE, FILE) is not None
    (file,) = cache.iterdir()
    first = file.stat()
    native.library.cache_clear()

    assert native.library(PACKAGE, FILE) is not None
    assert [found.stat().st_ino for found in cache.iterdir()] == [first.st_ino]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_other_source_and_other_flags_are_other_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = b"int one(void) { return 1; }"
    native._compiled(source, "one")
    native._compiled(source + b"\n", "one")
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g"))
    native._compiled(source, "one")
    assert len(list(cache.iterdir())) == 3


def test_many_processes_at_a_time_end_with_one_file(cache: Path) -> None:
    code = f"from caspr_spark import native; assert native.library({PACKAGE!r}, {FILE!r}) is not None"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0] * 4
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("compiler", "why"),
    [("/no/such/cc", "no C compiler"), ("false", "false failed"), (f"{sys.executable} -c 'print(1)'", "kernels")],
)
def test_without_a_compiler_torch_computes(
    compiler: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", compiler)
    assert native.library(PACKAGE, FILE) is None
    assert "torch computes the same" in caplog.text
    assert why in caplog.text


def test_a_library_that_somebody_else_could_have_written_is_not_loaded(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert native.library(PACKAGE, FILE) is None
    assert "others can write to it" in caplog.text


def test_it_can_be_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASPR_SPARK_NATIVE", "off")
    assert native.library(PACKAGE, FILE) is None
    assert not cache.exists()
