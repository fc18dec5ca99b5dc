"""Every schedule calls the command as it is, in UTC, never twice at once, and knows what each exit code means."""

import ast
import configparser
import importlib.util
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from caspr_spark.config_file import load_config
from caspr_spark.errors import CasprError, ConfigError
from jobs.options import refresh_times
from tests.schedules.programs import Home, home, parsed

ROOT = Path(__file__).resolve().parents[2]
SCHEDULES = ROOT / "conf" / "schedules"
INSTALLED = "/srv/caspr-spark"  # where cron, systemd and Airflow expect the checkout
NOW = datetime(2024, 6, 1, 13, 10, 30, tzinfo=UTC)
SUMMER_IN_INDIA = timezone(timedelta(hours=5, minutes=30))


@pytest.fixture
def checkout(tmp_path: Path) -> Home:
    return home(tmp_path)


def text_of(name: str) -> str:
    return (SCHEDULES / name).read_text(encoding="utf-8")


def unit(name: str) -> configparser.ConfigParser:
    """A systemd unit, whose keys keep their case; a key given twice is an error."""
    found = configparser.ConfigParser(interpolation=None, delimiters="=")
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(text_of(name))
    return found


# ---- --every-hours, for those that cannot pass a time --------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "now", "expected"),
    [
        (6, NOW, "2024-06-01T12:00:00+00:00"),
        (6, NOW.replace(hour=12, minute=0, second=0), "2024-06-01T12:00:00+00:00"),
        (6, NOW.replace(hour=11, minute=59, second=59), "2024-06-01T06:00:00+00:00"),
        (24, NOW, "2024-06-01T00:00:00+00:00"),
        (1, NOW, "2024-06-01T13:00:00+00:00"),
        (6, NOW.astimezone(SUMMER_IN_INDIA), "2024-06-01T12:00:00+00:00"),
        (24, datetime(2024, 6, 1, 2, tzinfo=SUMMER_IN_INDIA), "2024-05-31T00:00:00+00:00"),
    ],
)
def test_the_newest_whole_interval_is_one_of_utc(hours: int, now: datetime, expected: str) -> None:
    assert [time.isoformat() for time in refresh_times([], hours, now=now)] == [expected]


@pytest.mark.parametrize("hours", [-6, 0, 5, 7, 48])
def test_hours_that_do_not_divide_a_day_are_refused(hours: int) -> None:
    with pytest.raises(ConfigError, match=f"found {hours}"):
        refresh_times([], hours, now=NOW)


@pytest.mark.parametrize(("as_of", "hours"), [([], None), (["2024-06-01T00:00:00Z"], 6)])
def test_a_time_or_a_number_of_hours_is_needed_and_not_both(as_of: list[str], hours: int | None) -> None:
    with pytest.raises(ConfigError, match="not both"):
        refresh_times(as_of, hours, now=NOW)


# ---- cron ----------------------------------------------------------------------------------------------------------


def crontab() -> tuple[dict[str, str], str, str]:
    """The settings, the five fields of time, and the command of the one line of work."""
    lines = [line for line in text_of("caspr-spark.cron").splitlines() if line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    (work,) = [line for line in lines if line.split("=")[0] not in settings]
    *fields, _user, command = work.split(maxsplit=6)
    return settings, " ".join(fields), command


def run_of_cron(checkout: Home) -> subprocess.CompletedProcess[str]:
    command = crontab()[2].replace(INSTALLED, str(checkout.folder))
    shell = crontab()[0]["SHELL"]
    return subprocess.run([shell, "-c", command], env=checkout.environment, capture_output=True, text=True, timeout=30)


def test_cron_runs_at_the_ends_of_its_intervals_in_utc(checkout: Home) -> None:
    settings, fields, command = crontab()
    assert settings["CRON_TZ"] == "UTC"
    assert "%" not in command  # cron makes line ends of them
    minute, hour, *others = fields.split()
    assert others == ["*", "*", "*"]
    checkout.ends_with(0)
    run_of_cron(checkout)
    (call,) = checkout.calls
    assert hour == f"*/{parsed(call)['every_hours']}"
    assert 0 < int(minute) < 60
    load_config([ROOT / path for path in parsed(call)["config"]])


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 143])
def test_cron_takes_every_exit_code_but_75_as_final(code: int, checkout: Home) -> None:
    checkout.ends_with(code, 0)
    done = run_of_cron(checkout)
    assert len(checkout.calls) == 1
    assert checkout.lines("naps") == []
    assert f"exit code {code}" in done.stderr  # what cron mails


def test_cron_tries_again_later_after_75_but_not_for_ever(checkout: Home) -> None:
    checkout.ends_with(75, 75, 3, 0)
    run_of_cron(checkout)
    assert len(checkout.calls) == 3
    assert checkout.lines("naps") == ["900", "900"]
    checkout.ends_with(*20 * [75])
    run_of_cron(checkout)
    waits = sum(int(nap) for nap in checkout.lines("naps"))
    waits += len(checkout.calls) * load_config([ROOT / "conf" / "bank.yaml"]).refresh.wait_seconds
    assert waits < parsed(checkout.calls[0])["every_hours"] * 3600  # over before the next one begins


# ---- systemd -------------------------------------------------------------------------------------------------------


def test_systemd_runs_the_command_and_treats_its_exit_codes() -> None:
    service = unit("caspr-spark-refresh.service")["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program == f"{service['WorkingDirectory']}/.venv/bin/caspr-spark"
    assert parsed(words)["every_hours"] == 6
    load_config([ROOT / path for path in parsed(words)["config"]])
    assert service["Type"] == "exec"
    assert service["Restart"] == "no"
    assert service["RestartForceExitStatus"] == "75"
    assert service["SuccessExitStatus"].split() == ["4", "143"]


def test_the_timer_belongs_to_the_service_and_catches_up() -> None:
    timer = unit("caspr-spark-refresh.timer")
    assert "Unit" not in timer["Timer"]  # so it starts the service of its own name
    assert timer["Timer"]["OnCalendar"].endswith(" UTC")
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Install"]["WantedBy"] == "timers.target"


def test_systemd_says_of_a_drift_alert_and_of_nothing_else() -> None:
    after = unit("caspr-spark-refresh.service")["Service"]["ExecStopPost"].replace("$$", "$")
    for code in (0, 3, 4, 75):
        said = subprocess.run(shlex.split(after), env={"EXIT_STATUS": str(code)}, capture_output=True, text=True)
        assert said.stdout.startswith("<4>published with a drift alert") == (code == 4)
        assert said.returncode == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_itself_finds_nothing_wrong(checkout: Home) -> None:
    for name in ("caspr-spark-refresh.service", "caspr-spark-refresh.timer"):
        (checkout.folder / name).write_text(text_of(name).replace(INSTALLED, str(checkout.folder)))
        verify = ["systemd-analyze", "verify", "--man=no", str(checkout.folder / name)]
        done = subprocess.run(verify, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_systemd_starts_it_at_the_same_times_in_every_zone(zone: str) -> None:
    calendar = unit("caspr-spark-refresh.timer")["Timer"]["OnCalendar"]
    ask = ["systemd-analyze", "calendar", "--iterations=4", "--base-time=2024-06-01 00:00:00 UTC", calendar]
    said = subprocess.run(ask, env={"TZ": zone, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    times = sorted(set(re.findall(r"(\d\d:\d\d):00 UTC", said.stdout)))
    assert times == ["00:10", "06:10", "12:10", "18:10"]


# ---- Airflow -------------------------------------------------------------------------------------------------------


def test_options_of_the_dag_are_those_of_the_command() -> None:
    """The rest is for a real Airflow: tests/schedules/test_airflow.py."""
    nodes = ast.walk(ast.parse(text_of("airflow_dag.py")))
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    options = [value for value in constants if isinstance(value, str) and value.startswith("--")]
    assert sorted(options) == ["--as-of", "--config"]
    assert "refresh" in constants
    assert parsed(["refresh", "--config", "c", "--as-of", "2024-06-01T12:00:00+00:00"])["config"] == [Path("c")]


# ---- Kubernetes and Databricks: success and failure are all they see ------------------------------------------------


def waits_instead_of_75(configs: list[Path], *, every_hours: float) -> bool:
    """Whether the overlay for waiting is among the configurations, and what it waits fits between two runs."""
    if "wait_for_others.yaml" not in [path.name for path in configs]:
        return False
    config = load_config([ROOT / "conf" / "bank.yaml", SCHEDULES / "wait_for_others.yaml"])
    return 3600 <= config.refresh.wait_seconds < every_hours * 3600


def test_kubernetes_runs_the_job_in_utc_never_twice_at_once_and_waits_inside() -> None:
    document = yaml.safe_load(text_of("kubernetes.yaml"))
    spec, template = document["spec"], document["spec"]["template"]
    assert (document["apiVersion"], document["kind"]) == ("sparkoperator.k8s.io/v1beta2", "ScheduledSparkApplication")
    assert (spec["concurrencyPolicy"], spec["timeZone"]) == ("Forbid", "UTC")
    assert template["restartPolicy"] == {"type": "Never"}
    job = Path(template["mainApplicationFile"].removeprefix("local:///opt/caspr-spark/"))
    assert (ROOT / job).is_file()
    found = parsed([job.stem.replace("_", "-"), *template["arguments"]])
    assert spec["schedule"].split()[1:] == [f"*/{found['every_hours']}", "*", "*", "*"]
    assert waits_instead_of_75(found["config"], every_hours=found["every_hours"])
    volumes = {volume["name"] for volume in template["volumes"]}
    for pod in ("driver", "executor"):
        assert {mount["name"] for mount in template[pod]["volumeMounts"]} <= volumes
        assert "data" in {mount["name"] for mount in template[pod]["volumeMounts"]}
    mounted = {mount["mountPath"] for mount in template["driver"]["volumeMounts"]}
    assert {str(path.parent) for path in found["config"]} <= mounted


def databricks_job() -> dict[str, Any]:
    (job,) = yaml.safe_load(text_of("databricks/databricks.yml"))["resources"]["jobs"].values()
    found: dict[str, Any] = job
    return found


def databricks_task() -> ModuleType:
    place = SCHEDULES / "databricks" / databricks_job()["tasks"][0]["spark_python_task"]["python_file"]
    found = importlib.util.spec_from_file_location("run_refresh", place)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def databricks_arguments(as_of: str) -> list[str]:
    """The task's parameters with every reference filled in."""
    given: list[str] = databricks_job()["tasks"][0]["spark_python_task"]["parameters"]
    values = {"{{job.parameters.as_of}}": as_of, "${var.config}": "dataset.yaml"}
    filled = [values.get(word, word) for word in given]
    assert not [word for word in filled if "{" in word]
    return filled


def test_databricks_runs_the_job_in_utc_never_twice_at_once_and_waits_inside() -> None:
    job = databricks_job()
    assert job["max_concurrent_runs"] == 1
    assert job["queue"] == {"enabled": False}
    assert job["schedule"]["timezone_id"] == "UTC"
    second, minute, hour, *others = job["schedule"]["quartz_cron_expression"].split()
    assert (second, minute, others) == ("0", "0", ["*", "*", "?"])  # on the hour: when it is due is the interval's end
    assert [task["max_retries"] for task in job["tasks"]] == [0]
    found = parsed(["refresh", *databricks_arguments("2024-06-01T12:00:00Z")])
    assert waits_instead_of_75(found["config"], every_hours=int(hour.removeprefix("0/")))
    waits = load_config([ROOT / "conf" / "bank.yaml", SCHEDULES / "wait_for_others.yaml"]).refresh.wait_seconds
    assert waits < job["timeout_seconds"]


def test_the_databricks_task_passes_the_time_on_and_hides_the_cluster(
    checkout: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = databricks_task()
    monkeypatch.setattr(task, "HOME", str(checkout.folder))
    program = checkout.folder / ".venv" / "bin" / "caspr-spark"
    program.write_text(program.read_text().replace('echo "$@" >> calls', 'echo "$@" >> calls; env > seen'))
    monkeypatch.setenv("SPARK_HOME", "/databricks/spark")
    monkeypatch.setenv("PYTHONPATH", "/databricks/python")
    checkout.ends_with(0, 0)
    task.main(databricks_arguments("1717243200123"))
    task.main(databricks_arguments("2024-06-01T18:00:00Z"))
    times = [parsed(call)["as_of"] for call in checkout.calls]
    assert times == [["2024-06-01T12:00:00+00:00"], ["2024-06-01T18:00:00Z"]]
    assert [line for line in checkout.lines("seen") if line.startswith(("SPARK_", "PYTHON"))] == []


@pytest.mark.parametrize(("code", "says"), [(4, "published, but"), (3, "not published"), (75, "not published")])
def test_the_databricks_task_fails_by_every_other_exit_code_once(
    code: int, says: str, checkout: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = databricks_task()
    monkeypatch.setattr(task, "HOME", str(checkout.folder))
    checkout.ends_with(code)
    with pytest.raises(RuntimeError, match=rf"exit code {code}: {says}"):
        task.main(databricks_arguments("1717243200123"))
    assert len(checkout.calls) == 1


# ---- the page ------------------------------------------------------------------------------------------------------


def test_the_page_names_every_schedule_and_every_exit_code() -> None:
    page = (ROOT / "docs" / "scheduling.md").read_text(encoding="utf-8")
    files = {str(path.relative_to(SCHEDULES)) for path in SCHEDULES.rglob("*.*") if "__pycache__" not in path.parts}
    assert [name for name in files if name not in page] == []
    codes = {int(code) for code in re.findall(r"^\| (\d+) \| ", page, re.MULTILINE)}
    assert codes == {0, 143} | {kind.exit_code for kind in [CasprError, *CasprError.__subclasses__()]}
