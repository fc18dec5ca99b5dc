"""A build that is stopped in the middle, gently or by force: its tables are whole, and the next build goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

ROOT = Path(__file__).resolve().parents[2]
BUILD = ["full-build", "--config", "docs/example/shop.yaml", "--as-of", "2024-06-01T00:00:00Z"]
GRACE_SECONDS = 30


def started(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *BUILD],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("step", ["events", "pretrain"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_f11_a_stopped_build_leaves_whole_tables(step: str, number: int, code: int, tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    root = tmp_path / "data" / "shop"
    with started(tmp_path) as build:
        assert build.stdout is not None
        shown = []
        for line in build.stdout:  # until `step` is done: what follows it is stopped
            shown.append(line)
            if line.startswith(step):
                break
        assert build.poll() is None, "".join(shown)
        build.send_signal(number)
        sent = time.monotonic()
        build.stdout.read()  # ends when the JVM has ended too
        assert build.wait() == code
        assert time.monotonic() - sent < GRACE_SECONDS

    before = tables(root)
    assert "events" in before
    assert "customer_embeddings" not in before

    with started(tmp_path) as again:
        printed, _ = again.communicate()
    assert again.returncode == 0, printed[-3000:]
    (line,) = [line for line in printed.splitlines() if line.startswith("events")]
    assert "unchanged" in line
    after = tables(root)
    assert after["customer_embeddings"] == after["customer_embedding_history"] == 40
    assert {name: after[name] for name in ("events", "profiles", "rejected")} == {
        name: before[name] for name in ("events", "profiles", "rejected")
    }


def tables(root: Path) -> dict[str, int]:
    """Number of rows of each table that can be read; one that cannot fails the test."""
    return {
        folder.name: DeltaTable(str(folder)).to_pyarrow_table().num_rows
        for folder in sorted(root.iterdir())
        if any((folder / "_delta_log").glob("*.json"))
    }
