"""Two runs on one root: one goes first, the other waits, or gives up with exit code 75; a dead holder holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from caspr_spark.errors import TemporaryError
from caspr_spark.lease import lease

HOLDER = """
import sys, time
from caspr_spark.lease import lease
with lease(sys.argv[1], wait_seconds=0):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(root: Path, seconds: float) -> "subprocess.Popen[str]":
    """A process that has the lease and keeps it for so long."""
    command = [sys.executable, "-c", HOLDER, str(root), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_f20_the_second_run_gives_up_when_the_first_does_not_end(tmp_path: Path) -> None:
    process = holder(tmp_path, 60)
    try:
        with pytest.raises(TemporaryError, match="another run holds") as error, lease(str(tmp_path), wait_seconds=0.2):
            pass
        assert error.value.exit_code == 75
    finally:
        process.kill()
        process.wait()


def test_f20_the_second_run_waits_for_the_first(tmp_path: Path) -> None:
    process = holder(tmp_path, 1)
    with lease(str(tmp_path), wait_seconds=60):
        assert process.wait() == 0


def test_f27_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    process = holder(tmp_path, 60)
    process.kill()
    process.wait()
    with lease(str(tmp_path), wait_seconds=0):
        pass
