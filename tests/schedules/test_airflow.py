"""A real Airflow, in an environment of its own, runs the DAG: over a simulated bank, and for every exit code."""

import fcntl
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable

from caspr_spark.lease import LEASE_FILE
from tests.schedules.programs import home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

ROOT = Path(__file__).resolve().parents[2]
DAG, TASK = "caspr_spark_refresh", "refresh"
BUILT = "2024-01-03T00:00:00Z"
SMALL = """
pretrain: {max_epochs: 1, patience: 1}
model: {embedding_size: 8, width: 16, num_heads: 2, feed_forward: 16, encoder_layers: 1, decoder_layers: 1}
evaluate: {tasks: {}}
refresh: {wait_seconds: 0}
# every run of 30 customers has drifted
monitor: {min_customers: 30, max_median_distance: 0.00001, on_drift: stop}
"""


class Airflow:
    """An Airflow whose home, database and folder of DAGs lie in `folder`."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        (folder / "dags").mkdir(parents=True)
        dag = (ROOT / "conf" / "schedules" / "airflow_dag.py").read_text(encoding="utf-8")
        assert dag.count("timedelta(minutes=15)") == 1
        # nobody waits a quarter of an hour for a test
        (folder / "dags" / "caspr.py").write_text(dag.replace("timedelta(minutes=15)", "timedelta(seconds=2)"))
        subprocess.run([programs / "airflow", "db", "migrate"], env=self.environment(folder), check=True)

    def environment(self, checkout: Path) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "CASPR_SPARK_HOME": str(checkout),
            "CASPR_SPARK_CONFIG": "conf/bank.yaml:small.yaml",
        }

    @contextmanager
    def started(self, interval_end: str, checkout: Path) -> Iterator[subprocess.Popen[str]]:
        """`airflow dags test`; it takes the end of the interval for the time of a run by hand."""
        command = [self.programs / "airflow", "dags", "test", DAG, interval_end]
        environment = self.environment(checkout)
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True) as run:
            yield run

    def run(self, interval_end: str, checkout: Path) -> str:
        with self.started(interval_end, checkout) as run:
            return run.communicate()[0]

    def outcome(self, interval_end: str) -> dict[str, tuple[str, int]]:
        """State and number of tries of each task, and of the run itself, as Airflow's database has them."""
        when = f"{datetime.fromisoformat(interval_end):%Y-%m-%d %H:%M:%S}%"
        with closing(sqlite3.connect(self.folder / "airflow.db")) as database:
            runs = "select run_id, state from dag_run where dag_id = ? and logical_date like ?"
            ((run_id, state),) = database.execute(runs, (DAG, when)).fetchall()
            tasks = "select task_id, state, try_number from task_instance where run_id = ?"
            found = {name: (state, tries) for name, state, tries in database.execute(tasks, (run_id,))}
        return {**found, "run": (state, 1)}


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """The environment is made on first use."""
    requirements = Path(__file__).parent / "airflow-3.3.2.txt"
    script = [sys.executable, str(ROOT / "tools" / "neighbour_env.py"), str(requirements)]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True)
    return Airflow(tmp_path_factory.mktemp("airflow"), Path(done.stdout.strip()).parent)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, {"refresh": ("success", 1), "drift_alert": ("skipped", 1), "run": ("success", 1)}),
        (4, {"refresh": ("success", 1), "drift_alert": ("success", 1), "run": ("success", 1)}),
        (1, {"refresh": ("failed", 1), "drift_alert": ("upstream_failed", 0), "run": ("failed", 1)}),
        (2, {"refresh": ("failed", 1), "drift_alert": ("upstream_failed", 0), "run": ("failed", 1)}),
        (3, {"refresh": ("failed", 1), "drift_alert": ("upstream_failed", 0), "run": ("failed", 1)}),
        (5, {"refresh": ("failed", 1), "drift_alert": ("upstream_failed", 0), "run": ("failed", 1)}),
    ],
)
def test_airflow_takes_an_exit_code_for_what_it_means(
    code: int, expected: dict[str, tuple[str, int]], airflow: Airflow, tmp_path: Path
) -> None:
    checkout = home(tmp_path)
    checkout.ends_with(code, 0)
    end = f"2024-02-0{code + 1}T06:00:00+00:00"
    shown = airflow.run(end, checkout.folder)
    assert airflow.outcome(end) == expected, shown[-3000:]
    configs = ["--config", "conf/bank.yaml", "--config", "small.yaml"]
    assert checkout.calls == [["refresh", "--as-of", end, *configs]]


def test_airflow_gives_up_after_many_times_75(airflow: Airflow, tmp_path: Path) -> None:
    checkout = home(tmp_path)
    checkout.ends_with(*20 * [75])
    end = "2024-03-01T06:00:00+00:00"
    shown = airflow.run(end, checkout.folder)
    assert airflow.outcome(end)["refresh"] == ("failed", 9), shown[-3000:]
    assert len(checkout.calls) == 9


# ---- the program itself; one bank for the tests that follow, in their order ------------------------------------------


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout, with a synthetic bank of which everything before `BUILT` is published."""
    folder = tmp_path_factory.mktemp("bank")
    (folder / "conf").symlink_to(ROOT / "conf")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "small.yaml").write_text(SMALL)
    made = "simulate-bank --config conf/bank.yaml --out data/bank/raw --customers 60 --hours 6 --batches 12"
    built = f"full-build --config conf/bank.yaml --config small.yaml --as-of {BUILT}"
    for command in (made, built):
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *command.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def published(bank: Path) -> list[datetime]:
    """The distinct as_of of the vectors of the history, oldest first."""
    table = DeltaTable(str(bank / "data" / "bank" / "customer_embedding_history")).to_pyarrow_table(columns=["as_of"])
    return sorted({time.astimezone(UTC) for time in table["as_of"].to_pylist()})


def test_f20_a_run_in_the_way_is_waited_for_and_then_the_interval_is_published(airflow: Airflow, bank: Path) -> None:
    end = "2024-01-03T06:00:00+00:00"
    with (bank / "data" / "bank" / LEASE_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with airflow.started(end, bank) as run:
            assert run.stdout is not None
            shown = ""
            for line in run.stdout:  # until Airflow has seen exit code 75
                shown += line
                if "exit code 75" in line:
                    break
            waiting = airflow.outcome(end)
            fcntl.flock(file, fcntl.LOCK_UN)
            shown += run.stdout.read()
    assert "another run holds" in shown, shown[-3000:]
    assert waiting["run"] == ("running", 1)
    done = airflow.outcome(end)
    assert done["run"] == ("success", 1), shown[-3000:]
    assert done[TASK] == ("success", 2)
    assert re.search(r"new_state=up_for_retry|UP_FOR_RETRY", shown), shown[-3000:]
    assert published(bank) == [datetime(2024, 1, 3, tzinfo=UTC), datetime(2024, 1, 3, 6, tzinfo=UTC)]


def test_f64_missed_intervals_are_caught_up_by_the_next_and_its_drift_alert_is_no_failure(
    airflow: Airflow, bank: Path
) -> None:
    end = "2024-01-04T00:00:00+00:00"  # 12:00 and 18:00 never ran
    shown = airflow.run(end, bank)
    assert airflow.outcome(end) == {
        "refresh": ("success", 1),
        "drift_alert": ("success", 1),
        "run": ("success", 1),
    }, shown[-3000:]
    assert published(bank)[-1] == datetime(2024, 1, 4, tzinfo=UTC)
    latest = DeltaTable(str(bank / "data" / "bank" / "customer_embeddings")).to_pyarrow_table()
    assert latest.num_rows == len(set(latest["customer_id"].to_pylist()))
    newest = [row for row in latest.to_pylist() if row["as_of"] == datetime(2024, 1, 4, tzinfo=UTC)]
    missed = datetime(2024, 1, 3, 18, tzinfo=UTC)
    assert any(row["last_event_time"] < missed for row in newest)  # what happened in the missed intervals is there
    assert len(newest) >= 30


def test_a_failed_gate_is_not_tried_again_and_the_last_vectors_stay(airflow: Airflow, bank: Path) -> None:
    clicks = bank / "data" / "bank" / "raw" / "clicks"
    sent_again = min(clicks.rglob("part-*")).read_text(encoding="utf-8").splitlines()[:5]
    (clicks / "batch-000099").mkdir()
    (clicks / "batch-000099" / "part-0.txt").write_text("\n".join([*sent_again, *(line[:30] for line in sent_again)]))
    before = published(bank)
    end = "2024-01-04T06:00:00+00:00"
    shown = airflow.run(end, bank)
    assert airflow.outcome(end)[TASK] == ("failed", 1), shown[-3000:]
    assert "exit code 3" in shown
    assert published(bank) == before
