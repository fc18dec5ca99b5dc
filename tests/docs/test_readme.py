"""The README is run: its commands, its Python, and what it says of files, columns, targets and exit codes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from caspr_spark import errors
from caspr_spark.config import PretrainSection
from caspr_spark.config_file import load_config
from jobs.options import parsed_as_of
from schemas.embeddings import CUSTOMER_EMBEDDINGS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ".venv/bin/caspr-spark full-build --config docs/example/shop.yaml --as-of 2024-06-01T00:00:00Z"
REFRESH = ".venv/bin/caspr-spark refresh --config docs/example/shop.yaml --as-of 2024-06-08T00:00:00Z"
SUBMIT = (
    ".venv/bin/spark-submit --master spark://MASTER:7077 --py-files dist/caspr_spark.zip "
    "--conf spark.sql.shuffle.partitions=16 --conf spark.databricks.delta.snapshotPartitions=2 "
    "jobs/full_build.py --config docs/example/shop.yaml --as-of 2024-06-01T00:00:00Z"
)
TESTED_BY = {
    "git clone REPOSITORY caspr-spark": "tests/docs/test_readme.py::test_a_clone_has_what_the_quick_start_needs",
    "cd caspr-spark": "tests/docs/test_readme.py::test_a_clone_has_what_the_quick_start_needs",
    "make demo": "tests/docs/test_demo.py::test_the_demo_refreshes_three_weeks_and_then_finds_nothing_changed",
    "make test": "tests/docs/test_targets.py::test_continuous_integration_runs_the_test_command_of_the_readme",
    "make check": "tests/docs/test_targets.py::test_continuous_integration_runs_the_test_command_of_the_readme",
    "make test-slow": "tests/docs/test_targets.py::test_the_slow_tests_are_the_rest_of_the_tests",
    "make bench": "tests/docs/test_bench.py::test_each_stage_is_one_json_line",
    "make bench-train": "tests/docs/test_bench.py::test_training_and_scoring_are_measured_beside_a_peer",
    "make bench-distributed": "tests/docs/test_bench.py::test_workers_are_measured_against_one_process",
    "make bench-gpu": "tests/docs/test_bench.py::test_a_gpu_is_measured",
    "make bench-refresh": "tests/docs/test_bench.py::test_a_refresh_is_measured_against_a_full_build",
    "make soak": "tests/docs/test_bench.py::test_a_short_soak_loses_and_doubles_nothing",
    "make dist": "tests/packaging/test_wheel.py::test_base_configuration_is_found",
    EXAMPLE: "tests/docs/test_readme.py::test_the_example_accounts_for_its_rows_as_the_readme_says",
    REFRESH: "tests/docs/test_readme.py::test_the_refresh_touches_some_customers_and_then_has_nothing_to_do",
    "export PYSPARK_PYTHON=$PWD/.venv/bin/python": "tests/cluster/test_spark_submit.py::test_the_readme_command",
    SUBMIT: "tests/cluster/test_spark_submit.py::test_the_readme_command",
}


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of a language, '' for those without one."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of all bash blocks, continued lines joined."""
    joined = "\n".join(blocks("bash", text)).replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout by links, so that what the commands write stays out of it."""
    folder = tmp_path_factory.mktemp("workspace")
    for name in ("caspr_spark", "pipelines", "schemas", "jobs", "conf", "docs", "tools"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def example(workspace: Path) -> str:
    """What the example prints; its tables are in the workspace."""
    done = run(EXAMPLE, workspace)
    assert "Traceback" not in done
    return done


def run(command: str, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "TZ"}
    shell = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(
        shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=1000, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_every_command_has_a_test() -> None:
    benchmarks = ROOT / "docs" / "benchmarks.md"
    shown = commands(README) + (commands(benchmarks.read_text(encoding="utf-8")) if benchmarks.exists() else [])
    assert [command for command in shown if command not in TESTED_BY] == []
    assert set(TESTED_BY) - set(shown) == set()
    for test in TESTED_BY.values():
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8"), test


def test_a_clone_has_what_the_quick_start_needs(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    clone, enter, demo = commands(blocks_with("git clone"))
    script = f"{clone.replace('REPOSITORY', shlex.quote(str(ROOT)))} && {enter} && {demo} --dry-run"
    printed = run(script, tmp_path)
    assert "full-build --config conf/complete_journey.yaml" in printed


def blocks_with(text: str) -> str:
    """The bash block that holds `text`, fences included."""
    (block,) = [block for block in blocks("bash") if text in block]
    return f"```bash\n{block}```"


@pytest.mark.timeout(1200)
def test_the_example_accounts_for_its_rows_as_the_readme_says(example: str) -> None:
    (account,) = [block for block in blocks("") if "rows read" in block]
    printed = [line.strip() for line in example.splitlines()]
    assert [line for line in account.splitlines() if line not in printed] == []


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_python_of_the_readme_reads_the_feature_table(number: int, example: str, workspace: Path) -> None:
    assert len(blocks("python")) == 3
    code = blocks("python")[number]
    assert "C001" in run(f".venv/bin/python -c {shlex.quote(code)}", workspace)


@pytest.mark.timeout(1200)
def test_commands_that_a_run_ends_with_read_the_feature_table(example: str, workspace: Path) -> None:
    shown = example[example.index("Read the feature table") :].splitlines()[1:]
    readers = [line.strip() for line in shown if "-c" in line]
    assert len(readers) == 3
    for command in [*readers, *3 * readers[:1]]:  # DuckDB on an unfinished scan crashed in most runs, not in all
        assert "customer_id" in run(command, workspace), command


@pytest.mark.timeout(1200)
def test_the_refresh_touches_some_customers_and_then_has_nothing_to_do(example: str, workspace: Path) -> None:
    printed = run(REFRESH, workspace)
    assert re.search(r"^publish +\d+ in → +\d+ out", printed, re.MULTILINE)
    assert "Nothing to do: nothing arrived, and no vector is due." in run(REFRESH, workspace)


def test_the_yaml_of_the_readme_is_the_example() -> None:
    shop = (ROOT / "docs" / "example" / "shop.yaml").read_text(encoding="utf-8")
    assert len(blocks("yaml")) == 2
    assert [block for block in blocks("yaml") if block not in shop] == []


def test_the_rows_of_the_readme_are_the_first_of_the_example() -> None:
    lines = (ROOT / "docs" / "example" / "order_lines.csv").read_text(encoding="utf-8")
    (sample,) = [block for block in blocks("") if block.startswith("order,")]
    assert lines.startswith(sample)


def test_the_example_tables_come_from_their_seed(tmp_path: Path) -> None:
    folder = ROOT / "docs" / "example"
    subprocess.run([sys.executable, str(folder / "make_tables.py"), str(tmp_path)], check=True)
    for name in ("order_lines.csv", "accounts.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert sum(path.stat().st_size for path in folder.glob("*.csv")) < 100_000


def test_columns_of_the_feature_table_are_those_of_the_contract() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `?([\w<>]+)`? \| (.*) \|$", README, re.MULTILINE)
    assert rows == [(column.name, column.type, column.meaning) for column in CUSTOMER_EMBEDDINGS.columns]


def test_exit_codes_are_those_of_the_errors() -> None:
    written = {int(code) for code in re.findall(r"^\| (\d+) \| ", README, re.MULTILINE)}
    of_errors = {kind.exit_code for kind in all_errors(errors.CasprError)}
    assert written == of_errors | {0, 143}


def all_errors(kind: type[errors.CasprError]) -> list[type[errors.CasprError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in all_errors(below))]


def test_launchers_are_those_of_the_configuration() -> None:
    annotation: Any = PretrainSection.model_fields["launcher"].annotation
    table = README[README.index("| launcher |") : README.index("All of them run")]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(get_args(annotation))


def test_the_map_names_every_file_and_folder_and_nothing_else() -> None:
    table = README[README.index("## Where things are") : README.index("Read these five first")]
    first_cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}
    assert [name for name in named if not (ROOT / name).exists()] == []

    tracked = [Path(line) for line in tracked_files()]
    top = {f"{path.parts[0]}/" if len(path.parts) > 1 else path.name for path in tracked} - {"caspr_spark/"}
    library = [path for path in tracked if path.parts[0] == "caspr_spark"]
    inside = {f"caspr_spark/{path.parts[1]}/" if len(path.parts) > 2 else str(path) for path in library}
    assert (top | inside) - named - {"README.md", "caspr_spark/__init__.py"} == set()


def tracked_files() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_five_files_to_read_are_there() -> None:
    section = README[README.index("Read these five first") : README.index("To work on the project")]
    paths = re.findall(r"^\d\. `([^`]+)`", section, re.MULTILINE)
    assert len(paths) == 5
    assert [path for path in paths if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (folder / link).exists()] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_settings_that_the_readme_names_are_in_the_configuration() -> None:
    config = load_config([ROOT / "docs" / "example" / "shop.yaml"]).model_dump()
    named = set(re.findall(r"`((?:sequences|pretrain|monitor|model|events|embed|spark)\.\w+)[`:]", README))
    assert {"sequences.max_events", "pretrain.launcher"} <= named
    assert [name for name in named if name.split(".")[1] not in config[name.split(".")[0]]] == []


def test_times_of_the_commands_have_a_zone() -> None:
    times = re.findall(r"--as-of (\S+)", "\n".join(commands(README)))
    assert times
    for text in times:
        parsed_as_of(text)
