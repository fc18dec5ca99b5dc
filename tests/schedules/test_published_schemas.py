"""The Kubernetes and Databricks files against the models that the Spark operator and Databricks publish on PyPI."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The operator's model drops what it does not know: then a file is not what comes back. Databricks' raises ValueError.
CHECK = """
import sys, yaml
from databricks.bundles.jobs import Job
from kubeflow_spark_api.models import SparkV1beta2ScheduledSparkApplication as Application

kind, path = sys.argv[1:]
document = yaml.safe_load(open(path))
if kind == "kubernetes":
    known = Application.from_dict(document).to_dict()
else:
    (document,) = document["resources"]["jobs"].values()
    known = Job.from_dict(document).as_dict()
print("as published" if known == document else f"expected {known}, found {document}")
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The Python of the environment that has both models; made on first use."""
    requirements = Path(__file__).parent / "published-schemas.txt"
    script = [sys.executable, str(ROOT / "tools" / "neighbour_env.py"), str(requirements)]
    return subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def verdict(python: str, kind: str, path: Path) -> str:
    done = subprocess.run([python, "-c", CHECK, kind, str(path)], capture_output=True, text=True, timeout=300)
    return (done.stdout + done.stderr).strip()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "name", "good", "bad"),
    [
        ("kubernetes", "kubernetes.yaml", "concurrencyPolicy:", "concurencyPolicy:"),
        ("kubernetes", "kubernetes.yaml", "mountPath: /data", "mountPoint: /data"),
        ("databricks", "databricks/databricks.yml", "max_concurrent_runs:", "max_concurent_runs:"),
        ("databricks", "databricks/databricks.yml", "pause_status: UNPAUSED", "pause_status: OFF"),
    ],
)
def test_the_schema_takes_the_file_and_not_a_mistake_in_it(
    kind: str, name: str, good: str, bad: str, python: str, tmp_path: Path
) -> None:
    path = ROOT / "conf" / "schedules" / name
    assert verdict(python, kind, path) == "as published"
    text = path.read_text(encoding="utf-8")
    assert good in text
    (tmp_path / "wrong.yaml").write_text(text.replace(good, bad))
    assert verdict(python, kind, tmp_path / "wrong.yaml") != "as published"
