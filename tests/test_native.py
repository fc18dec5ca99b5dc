"""C that is compiled where it runs, or left out."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import pytest

from caspr_spark import native

PACKAGE, FILE = "caspr_spark.model", "kernels.c"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    native._library.cache_clear()
    yield tmp_path / "caspr-spark" / "native"
    native._library.cache_clear()


def test_it_is_compiled_once_for_nobody_else_to_write_to(cache: Path) -> None:
    assert native.library(PACKAGE, FILE) is not None
    (file,) = cache.iterdir()
    first = file.stat()
    native._library.cache_clear()

    assert native.library(PACKAGE, FILE) is not None
    assert [found.stat().st_ino for found in cache.iterdir()] == [first.st_ino]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_other_source_and_other_flags_are_other_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = b"int one(void) { return 1; }"
    files = [native._file_of(source, "one"), native._file_of(source + b"\n", "one")]
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g"))
    files.append(native._file_of(source, "one"))
    assert len({*files}) == 3
    assert {file.parent for file in files} == {cache}


def test_a_file_that_is_no_library_is_compiled_again() -> None:
    file = native._file_of(resources.files(PACKAGE).joinpath(FILE).read_bytes(), Path(FILE).stem)
    file.write_bytes(b"cut off")
    assert native.library(PACKAGE, FILE) is not None
    assert file.stat().st_size > 1000


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of another processor")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v2", "x86-64-v3"])
def test_older_processors_get_one_as_well(monkeypatch: pytest.MonkeyPatch, processor: str) -> None:
    flags = [f"-march={processor}" if flag.startswith("-march") else flag for flag in native.FLAGS]
    monkeypatch.setattr(native, "FLAGS", tuple(flags))
    assert native.library(PACKAGE, FILE) is not None


def test_many_threads_at_a_time_get_one_library() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: native.library(PACKAGE, FILE), range(8)))
    assert found[0] is not None
    assert all(one is found[0] for one in found)


def test_many_processes_at_a_time_end_with_one_file(cache: Path) -> None:
    code = f"from caspr_spark import native; assert native.library({PACKAGE!r}, {FILE!r}) is not None"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0] * 4
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("/no/such/cc", "no C compiler"),
        ("false", "false failed: exit code 1"),
        ("cc -DX='1", "quotation"),
        ("cc -Dfloats=", "error"),
        (f"{sys.executable} -c 'print(1)'", "kernels"),
    ],
)
def test_without_a_compiler_torch_computes(
    compiler: str, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", compiler)
    assert native.library(PACKAGE, FILE) is None
    assert "torch computes the same" in caplog.text
    assert why in caplog.text


def test_without_a_home_torch_computes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home directory")))
    assert native.library(PACKAGE, FILE) is None
    assert "no home directory" in caplog.text


def test_a_library_that_somebody_else_could_have_written_is_not_loaded(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert native.library(PACKAGE, FILE) is None
    assert "others can write to it" in caplog.text


def test_a_library_of_another_user_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert native.library(PACKAGE, FILE) is None
    assert "others can write to it" in caplog.text


@pytest.mark.parametrize("how", ["off", "0", "False"])
def test_it_can_be_switched_off(how: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASPR_SPARK_NATIVE", how)
    assert native.library(PACKAGE, FILE) is None
    assert not cache.exists()
