"""The machine fails under a command: Java dies, a disk is full or read-only. One message, exit code, whole tables."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable

from caspr_spark.lease import LEASE_FILE, lease
from caspr_spark.manifest import read_manifest, sequences_folder
from jobs.cli import main
from tests.cli.commands import COMPLETE_JOURNEY, descendants, ended, overlay_for, started, wait_until
from tests.embed.planted_root import planted_root, save_untrained
from tests.pretrain.planted import AS_OF, FilePlan

EMBED = ("embed-customers", "--as-of", AS_OF.isoformat())
NUM_CUSTOMERS = 60


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return planted_root(tmp_path / "root", [FilePlan("training", (NUM_CUSTOMERS,))])


def mounted(place: Path, *options: str) -> None:
    """Mount something at `place`; the test is skipped where this user may not."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no mount here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "small"
    mounted(place, "-t", "tmpfs", "-o", "size=1m", "none")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def read_only(tmp_path: Path, root: Path) -> Iterator[Path]:
    """The root, with the folder of one table on a read-only file system."""
    table = root / "embeddings"
    mounted(table, "-t", "tmpfs", "-o", "size=1m,ro", "none")
    yield root
    subprocess.run(["umount", str(table)], check=True)


@pytest.mark.slow
def test_f10_a_java_that_dies_is_told_and_the_next_run_starts_at_once(root: Path) -> None:
    overlay = overlay_for(root)
    process = started(*EMBED, overlay=overlay)
    wait_until((root / "embeddings").exists, process)  # it is at work
    (java,) = [child for child in descendants(process, "java") if child.name() == "java"]
    java.kill()

    code, printed = ended(process)
    assert code == 1
    assert printed.startswith("error: Spark's Java process could not be started, or ended")
    assert "Traceback" not in printed
    with lease(str(root), wait_seconds=0):  # held by nobody
        pass
    code, printed = ended(started(*EMBED, overlay=overlay))
    assert code == 0, printed[-3000:]
    assert DeltaTable(str(root / "embeddings")).to_pyarrow_table().num_rows == NUM_CUSTOMERS


@pytest.mark.slow
def test_f12_a_full_disk_leaves_the_table_as_it_was_and_the_next_run_does_the_work(
    root: Path, small_disk: Path
) -> None:
    small = shutil.copytree(root, small_disk / "root")
    overlay = overlay_for(small)
    assert ended(started(*EMBED, overlay=overlay))[0] == 0
    table = small / "embeddings"
    before = DeltaTable(str(table)).to_pyarrow_table()

    challenger = save_untrained(small, read_manifest(sequences_folder(small, AS_OF)), seed=2)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096))
    code, printed = ended(started(*EMBED, "--model", challenger, overlay=overlay))
    assert code == 1, printed[-3000:]
    assert f"error: {small}: a disk is full" in printed
    assert "Traceback" not in printed
    assert DeltaTable(str(table)).version() == 0
    assert DeltaTable(str(table)).to_pyarrow_table() == before

    ballast.unlink()
    code, printed = ended(started(*EMBED, "--model", challenger, overlay=overlay))
    assert code == 0, printed[-3000:]
    assert DeltaTable(str(table)).to_pyarrow_table().column("model_version").unique().to_pylist() == [challenger]


def refused(verb: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says when it ends with 2, having written nothing; Spark is not even started."""
    overlay = tmp_path / "refused.yaml"
    overlay.write_text(f"root: {root}\n")
    before = files(root)
    handler = signal.getsignal(signal.SIGTERM)
    time = [] if verb == "maintain" else ["--as-of", AS_OF.isoformat()]
    try:
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--config", str(COMPLETE_JOURNEY), "--config", str(overlay), *time])
    finally:
        signal.signal(signal.SIGTERM, handler)  # `main` handles it; the tests' process keeps its own ways
    assert stopped.value.code == 2
    assert files(root) == before
    return capsys.readouterr().err


def files(root: Path) -> dict[str, bytes]:
    """All that lies below the root, but for the lock."""
    found = (path for path in root.rglob("*") if path.is_file() and path.name != LEASE_FILE)
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize("verb", ["embed-customers", "publish-embeddings", "refresh", "maintain", "full-build"])
def test_f13_a_read_only_table_is_named_before_any_work(
    verb: str, read_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(verb, read_only, tmp_path, capsys) == (
        f"error: {read_only}: cannot be written (no permission, or a read-only file system, for embeddings); "
        "nothing was done. Mend that, or give another root\n"
    )


@pytest.mark.parametrize("verb", ["embed-customers", "refresh", "maintain"])
def test_f13_a_root_that_cannot_be_made_is_told_before_any_work(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    said = refused(verb, tmp_path / "file" / "root", tmp_path, capsys)
    assert said.startswith(f"error: {tmp_path}/file/root: cannot be written (Not a directory); nothing was done")
