"""Two workers whose launcher is killed end too, listen to their own host alone, and go on where they were."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.pretrain import start
from caspr_spark.pretrain.state import load_state
from tests.pretrain.planted import FilePlan, write_planted
from tests.pretrain.rank_probe import BEATS
from tests.pretrain.test_launch import trained
from tests.pretrain.test_trainer import DROPOUTS

LISTENING = "0A"
STEPS = 10
STANDING_STILL = """
import sys
from pathlib import Path
from caspr_spark.pretrain import launch, start
from tests.pretrain.test_killed_launcher import STEPS, how
from tests.pretrain.test_launch import trained
start.WORKER_MODULE = "tests.pretrain.rank_probe"
trained(Path(sys.argv[1]), Path(sys.argv[2]), **how(sys.argv[3]))
"""


def how(launcher: str) -> dict[str, object]:
    """Two epochs of ten steps."""
    return {"model": DROPOUTS, "launcher": launcher, "num_workers": 2, "batch_size": 10, "max_epochs": 2}


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("horovod", marks=pytest.mark.slow)])
def test_f15_f16_a_killed_launchers_workers_end_and_the_next_run_goes_on_within_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    sequences = tmp_path / "sequences"
    write_planted(sequences, [FilePlan("training", (100, 95)), FilePlan("validation", (20, 10))])
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")
    whole, _ = trained(sequences, tmp_path / "whole", **how(launcher))

    command = [sys.executable, "-c", STANDING_STILL, str(sequences), str(tmp_path / "cut"), launcher]
    environment = os.environ | {"PROBE_MISFORTUNE": "stands still"}
    with subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2]) as process:
        until(lambda: steps_done(tmp_path / "cut") == BEATS - 1, seconds=60)
        started = [process.pid, *descendants(process.pid)]
        listened = {address for pid in started for address in listening(pid)}
        process.kill()
    until(lambda: not any(is_alive(pid) for pid in started), seconds=30)
    version, records = trained(sequences, tmp_path / "cut", **how(launcher))

    assert len(started) >= 4  # two launchers, two workers
    assert listened
    assert all(ip_address(address).is_loopback for address in listened)
    assert version == whole
    assert [record.epoch for record in records] == [1, 2]
    for rank in (0, 1):
        taken = np.load(tmp_path / "cut" / f"steps-{rank}.npy").tolist()
        assert taken == [*range(BEATS, STEPS + 1), *range(1, STEPS + 1)]


def test_f16_a_worker_that_dies_is_started_again_and_goes_on_within_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sequences = tmp_path / "sequences"
    write_planted(sequences, [FilePlan("training", (100, 95)), FilePlan("validation", (20, 10))])
    monkeypatch.setattr(start, "WORKER_MODULE", "tests.pretrain.rank_probe")
    whole, _ = trained(sequences, tmp_path / "whole", **how("torchrun"))
    monkeypatch.setenv("PROBE_MISFORTUNE", "dies once")
    monkeypatch.setenv("PROBE_DIED", str(tmp_path / "died-0"))
    with pytest.raises(CasprError, match=r"\(exit code 1\); run the same command again: it goes on after step \d+ of"):
        trained(sequences, tmp_path / "ended", **how("torchrun"))

    monkeypatch.setenv("PROBE_DIED", str(tmp_path / "died-1"))
    version, records = trained(sequences, tmp_path / "cut", **how("torchrun"), max_restarts=1)

    assert (tmp_path / "died-1").exists()
    assert version == whole
    assert [record.epoch for record in records] == [1, 2]
    assert [record.message for record in caplog.records if "restart 1 of 1" in record.message]
    assert len(np.load(tmp_path / "cut" / "steps-1.npy")) < 2 * STEPS


def steps_done(root: Path) -> int:
    """Of the first epoch, as its saved state tells."""
    for work in (root / "checkpoints").glob(".training-*"):
        try:
            state = load_state(work)
        except (FileNotFoundError, UnsafeError):
            continue  # replaced meanwhile
        if state is not None and state.under_way is not None:
            return state.under_way.step
    return 0


def until(is_so: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def descendants(top: int) -> set[int]:
    """The processes that descend from `top`."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    tree = {top}
    while found := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= found
    return tree - {top}


def is_alive(pid: int) -> bool:
    """Not gone, nor waiting for its parent to take notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listening(pid: int) -> Iterator[str]:
    """The addresses on which a process waits for connections."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            inodes.add(os.readlink(file))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in inodes:
                yield address_of(fields[1].partition(":")[0])


def address_of(hexadecimal: str) -> str:
    """As /proc/net writes it: words of four bytes, each turned round."""
    raw = bytes.fromhex(hexadecimal)
    turned = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    return str(ip_address(turned))
