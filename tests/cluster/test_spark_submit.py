"""Every job by spark-submit on a standalone master and two workers: code from the zip, exit codes seen from outside."""

import csv
import random
import re
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

ROOT = Path(__file__).resolve().parents[2]
NUM_CUSTOMERS, NUM_DAYS = 240, 120
FIRST_DAY = datetime(2024, 1, 1)
AS_OF = "2024-04-01T00:00:00Z"
ONE_BY_ONE = [
    "build_events",
    "build_sequences",
    "pretrain_model",
    "embed_customers",
    "publish_embeddings",
    "monitor_embeddings",
    "evaluate_embeddings",
    "write_report",
]
OVERLAY = """
dataset: cluster
root: {root}
sources:
  visits:
    format: csv
    path: {visits}
    entity: customer
    time: {{column: at, zone: UTC}}
    key: [visit]
    attributes:
      shop: {{kind: categorical}}
      amount: {{kind: numerical}}
profiles:
  accounts:
    format: csv
    path: {accounts}
    entity: customer
    attributes:
      country: {{kind: categorical}}
sequences: {{max_events: 16, customers_per_row_group: 60}}
model: {{embedding_size: 8, width: 16, num_heads: 2, feed_forward: 32, encoder_layers: 1, decoder_layers: 1}}
pretrain: {{max_epochs: 2, batch_size: 32, timeout_seconds: 120}}
evaluate:
  tasks:
    churn: {{kind: churn, source: visits, active_days: 28, horizon_days: 14, money: amount}}
  num_splits: 2
report: {{money: amount, describe_by: shop}}
"""


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two generated CSV files and the YAML that declares them, with a root of its own."""
    folder, chance = tmp_path_factory.mktemp("data"), random.Random(7)
    with (
        (folder / "visits.csv").open("w", newline="") as visits,
        (folder / "accounts.csv").open("w", newline="") as accounts,
    ):
        csv.writer(visits).writerow(["visit", "customer", "at", "shop", "amount"])
        csv.writer(accounts).writerow(["customer", "country"])
        for customer in range(NUM_CUSTOMERS):
            csv.writer(accounts).writerow([f"c{customer}", chance.choice(["DE", "FR"])])
            days = sorted(chance.sample(range(NUM_DAYS), chance.randint(3, 24)) + [NUM_DAYS - 1] * (customer == 0))
            for number, day in enumerate(days):
                at = FIRST_DAY + timedelta(days=day, minutes=chance.randint(0, 1000))
                row = [
                    f"{customer}-{number}",
                    f"c{customer}",
                    at,
                    f"shop {customer % 5}",
                    f"{chance.uniform(1, 90):.2f}",
                ]
                csv.writer(visits).writerow(row)
    return _written(folder / "cluster.yaml", OVERLAY, folder, root="root")


def _written(path: Path, text: str, folder: Path, *, root: str) -> Path:
    names = {"root": folder / root, "visits": folder / "visits.csv", "accounts": folder / "accounts.csv"}
    path.write_text(text.format(**names))
    return path


def published(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = DeltaTable(str(folder / "customer_embeddings")).to_pyarrow_table().to_pylist()
    return rows


@pytest.fixture(scope="module")
def built(cluster: Any, overlay: Path) -> Path:
    """The overlay, after every job was submitted, one after another."""
    for job in ONE_BY_ONE:
        done = cluster.submit(job, "--config", str(overlay), "--as-of", AS_OF)
        assert done.returncode == 0, f"{job}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        assert "FutureWarning" not in done.stdout + done.stderr, job
    return overlay


def test_every_job_runs_on_the_cluster_and_full_build_finds_nothing_left_to_do(cluster: Any, built: Path) -> None:
    overlay = built
    rows = published(overlay.parent / "root")
    customers = Counter(row["customer_id"] for row in rows)
    assert set(customers.values()) == {1}
    with (overlay.parent / "visits.csv").open() as file:
        seen = {row["customer"] for row in csv.DictReader(file) if row["at"] < "2024-04-01"}
    assert set(customers) == seen
    assert {len(row["embedding"]) for row in rows} == {8}
    assert (overlay.parent / "root" / "report" / "index.html").exists()

    again = cluster.submit("full_build", "--config", str(overlay), "--as-of", AS_OF)
    assert again.returncode == 0, again.stderr[-6000:]
    assert "Nothing changed" in again.stdout
    lines = [line for line in again.stdout.splitlines() if " in → " in line]
    assert len(lines) == len(ONE_BY_ONE)
    assert [line for line in lines if "unchanged" not in line] == []
    assert published(overlay.parent / "root") == rows


@pytest.mark.usefixtures("built")
def test_both_workers_did_some_of_it(cluster: Any) -> None:
    applications = [sorted(path.name for path in (cluster.folder / "work" / str(n)).glob("app-*")) for n in range(2)]
    assert applications[0] == applications[1]
    assert len(applications[0]) >= len(ONE_BY_ONE)


@pytest.mark.parametrize(("launcher", "batch_size"), [("horovod_spark", 16), ("torch_spark", 24)])
def test_two_workers_train_inside_the_cluster(cluster: Any, built: Path, launcher: str, batch_size: int) -> None:
    """Another batch size, for the same training by another launcher is not done again."""
    how = built.parent / f"{launcher}.yaml"
    how.write_text(f"pretrain: {{launcher: {launcher}, num_workers: 2, batch_size: {batch_size}}}\n")
    files = ["--config", str(built), "--config", str(how)]
    done = cluster.submit("pretrain_model", *files, "--as-of", AS_OF)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert "best of 2 epochs" in done.stdout


def test_a_failed_gate_is_exit_code_3_and_nothing_is_written(cluster: Any, overlay: Path) -> None:
    gate = overlay.parent / "gate.yaml"
    rule = "{too_dear: {rule: amount < 10, max_failed_share: 0.01, on_fail: stop}}"
    gate.write_text(f"root: {overlay.parent / 'gated'}\nsources: {{visits: {{checks: {rule}}}}}\n")
    done = cluster.submit("full_build", "--config", str(overlay), "--config", str(gate), "--as-of", AS_OF)
    assert done.returncode == 3, done.stderr[-6000:]
    said = done.stdout + done.stderr  # spark-submit sends both to its standard output
    assert "too_dear" in said
    assert "Traceback" not in said
    assert not (overlay.parent / "gated" / "events").exists()


def test_a_mistake_in_the_configuration_is_exit_code_2(cluster: Any, overlay: Path) -> None:
    wrong = overlay.parent / "wrong.yaml"
    wrong.write_text("sequences: {max_event: 3}\n")
    done = cluster.submit("build_events", "--config", str(overlay), "--config", str(wrong), "--as-of", AS_OF)
    assert done.returncode == 2, done.stderr[-6000:]
    assert "did you mean 'sequences.max_events'" in done.stdout + done.stderr


def test_the_readme_command(cluster: Any, tmp_path: Path) -> None:
    """As it stands there, but for the master's address and `make dist`, whose zip is here already."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [found for found in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL) if "spark-submit" in found]
    assert block.startswith("make dist\n")
    script = block.removeprefix("make dist\n").replace("spark://MASTER:7077", cluster.master)
    for name in ("jobs", "conf", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "dist").symlink_to(cluster.py_files.parent)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    own = {"SPARK_LOCAL_IP", "SPARK_LOCAL_DIRS"}  # all else a reader's shell does not have
    environment = {k: v for k, v in cluster.environment.items() if k in own or not k.startswith(("SPARK_", "PYSPARK_"))}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    assert len(published(tmp_path / "data" / "shop")) == 40
