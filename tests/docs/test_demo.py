"""`make demo`, but for the set-up: the command that its target runs, twice."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demo_refreshes_three_weeks_and_then_finds_nothing_changed(tmp_path: Path) -> None:
    for name in ("conf", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    command = ["bash", "-ec", recipe.replace("\t@", "").replace("$(BIN)", ".venv/bin")]

    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "Nothing changed" not in first.stdout
    root = tmp_path / "data" / "complete_journey"
    latest = DeltaTable(str(root / "customer_embeddings")).to_pyarrow_table(columns=["customer_id", "as_of"])
    history = DeltaTable(str(root / "customer_embedding_history")).to_pyarrow_table(columns=["customer_id", "run_id"])
    assert len(set(latest["customer_id"].to_pylist())) == latest.num_rows
    assert 2400 < latest.num_rows <= 2469
    assert len(set(history["run_id"].to_pylist())) == 4
    assert (root / "report" / "index.html").stat().st_size > 10_000

    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
    assert "Nothing changed" in second.stdout
    assert "Nothing to do" in second.stdout
