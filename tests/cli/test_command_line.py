"""The command line: help for every verb, and for each mistake one message, its exit code and no traceback."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from typer.main import get_command

from caspr_spark.errors import TemporaryError, UnsafeError
from caspr_spark.lease import lease
from jobs.cli import app, main, models, parsed_as_of, rejected
from pipelines.scored_models import Runner, refused
from pipelines.summary import Summary
from tests.embed.planted_root import planted_root
from tests.pretrain.planted import FilePlan

ROOT = Path(__file__).resolve().parents[2]
VERBS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
# every other verb is for one time
OTHERS = ("backfill", "erase", "export", "maintain", "models", "rejected", "runs", "simulate-bank")
OF_MODELS = sorted(get_command(models).commands)  # type: ignore[attr-defined]
OF_REJECTED = sorted(get_command(rejected).commands)  # type: ignore[attr-defined]
SUB_VERBS = [*(f"models {verb}" for verb in OF_MODELS), *(f"rejected {verb}" for verb in OF_REJECTED)]
TIMED = [verb for verb in VERBS if verb not in OTHERS]
NEEDED = {"finetune": ("--labels", "labels.csv", "--name", "task")}
"""Options that a verb cannot do without, beside --config and --as-of."""
SHOP = str(ROOT / "docs" / "example" / "shop.yaml")
AS_OF = "2024-06-01T00:00:00Z"


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """`main` handles SIGTERM; the tests' process keeps its own ways."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, shown.out, shown.err


def test_every_verb_has_a_job_and_a_pipeline_of_its_name() -> None:
    for_people = ("runs", "export", "models", "rejected")
    with_object = {"explore": "explore_embeddings"}
    names = {verb: with_object.get(verb, verb.replace("-", "_")) for verb in VERBS if verb not in for_people}
    assert len(names) == 18
    for verb, name in names.items():
        assert (ROOT / "pipelines" / f"{name}.py").is_file(), name
        assert f'run_job("{verb}")' in (ROOT / "jobs" / f"{name}.py").read_text(), name


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, "--help")
    assert code == 0
    assert [verb for verb in VERBS if not re.search(rf"\b{verb}\b", out)] == []


@pytest.mark.parametrize("verb", [*VERBS, *SUB_VERBS])
def test_help_of_a_verb_names_its_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, *verb.split(), "--help")
    assert code == 0
    assert ("--config" in out) == (verb not in ("models", "rejected"))
    assert bool(re.search(r"--as-of +<", out)) == (verb in TIMED)


def test_models_has_a_verb_for_each_thing_that_can_be_done_with_them() -> None:
    assert OF_MODELS == ["export", "ls", "rollback", "set", "show", "unset"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "challenger", "nowhere"], "there is no model 'nowhere'; it has none"),
        (["export", "nowhere"], "there is no model 'nowhere'; it has none"),
        (["set", "winner", "m1"], "'winner' is not one of 'champion', 'challenger'"),
        (["unset", "champion"], "'champion' is not"),
    ],
)
def test_a_model_or_alias_that_there_is_not_is_said(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    overlay = tmp_path / "root.yaml"
    overlay.write_text(f"root: {tmp_path}\n")
    code, _, err = outcome(capsys, "models", *arguments, "--config", SHOP, "--config", str(overlay))
    assert code == 2
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", err).split())


def test_a_model_is_exported_into_its_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root, overlay = planted_root(tmp_path / "root", [FilePlan("training", (20,))]), tmp_path / "root.yaml"
    overlay.write_text(f"root: {root}\n")
    code, out, _ = outcome(capsys, "models", "export", "champion", "--config", SHOP, "--config", str(overlay))
    assert code == 0
    (path,) = root.glob("checkpoints/*/encoder.onnx")
    assert path.parent.name in "".join(out.split())


def test_the_installed_command_is_there() -> None:
    command = Path(sys.executable).parent / "caspr-spark"
    done = subprocess.run([str(command), "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "full-build" in done.stdout


@pytest.mark.parametrize("verb", TIMED)
def test_a_time_without_zone_is_refused(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, verb, "--config", SHOP, "--as-of", "2024-06-01T00:00:00", *NEEDED.get(verb, ()))
    assert code == 2
    assert "'2024-06-01T00:00:00' has no time zone" in err
    assert "2024-06-01T00:00:00Z" in err


@pytest.mark.parametrize("text", ["yesterday", "2017-13-02T00:00:00Z", "1506902400", "", "0001-01-01T00:00:00+05:00"])
def test_what_is_no_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, "build-events", "--config", SHOP, "--as-of", text)
    assert code == 2
    assert f"expected a time such as 2017-10-02T00:00:00Z, found {text!r}" in err


def test_the_hint_for_a_date_alone_can_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = outcome(capsys, "build-events", "--config", SHOP, "--as-of", "2024-06-01")
    hint = err.split()[-1]
    assert parsed_as_of(hint).isoformat() == "2024-06-01T00:00:00+00:00"


def test_a_time_of_any_zone_is_read_as_utc() -> None:
    assert parsed_as_of("2024-06-01T02:00:00+02:00") == parsed_as_of("2024-06-01T00:00:00Z")


@pytest.mark.parametrize("verb", TIMED)
def test_a_missing_configuration_file_is_named(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, verb, "--config", "conf/nowhere.yaml", "--as-of", AS_OF, *NEEDED.get(verb, ()))
    assert code == 2
    assert "conf/nowhere.yaml: no such file" in err


def test_mistakes_of_two_files_are_told_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data, size = tmp_path / "data.yaml", tmp_path / "size.yaml"
    data.write_text("sequences: {max_event: 3}\n")
    size.write_text("model: {pooling: average}\n")
    code, _, err = outcome(capsys, "build-events", "--config", str(data), "--config", str(size), "--as-of", AS_OF)
    assert code == 2
    assert f"{data}: unknown key 'sequences.max_event'; did you mean 'sequences.max_events'?" in err
    assert f"{size}: 'model.pooling'" in err
    assert "'average'" in err


@pytest.mark.parametrize("missing", ["--config", "--as-of"])
def test_a_missing_option_is_named(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--config": SHOP, "--as-of": AS_OF}
    arguments = [part for option, value in given.items() if option != missing for part in (option, value)]
    code, _, err = outcome(capsys, "build-events", *arguments)
    assert code == 2
    assert missing in err


def test_a_mistyped_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, "build-event")
    assert code == 2
    assert "build-events" in err


def test_f17_a_refused_challenger_ends_a_refresh_that_did_the_rest_with_its_own_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refreshed(*_arguments: object, run_step: Runner, **_settings: object) -> list[Summary]:
        done = run_step("publish", lambda: Summary("publish", 7, 7))
        return [refused("m2", UnsafeError("m2/weights.safetensors: the file was changed"), run_step), done]

    monkeypatch.setattr("jobs.runs_cli.session", lambda *_arguments, **_settings: nullcontext())
    monkeypatch.setattr("pipelines.refresh.refresh", refreshed)
    monkeypatch.setattr("pipelines.write_report.write_report", lambda *_arguments: Summary("report", 7, 1))
    code, out, err = outcome(capsys, "refresh", "--config", SHOP, "--as-of", AS_OF)
    assert code == 5
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "publish",
        "challenger",
        "warning:",
        "report",
        "Report:",
    ]
    assert "m2 was not scored, the champion was" in out
    assert "the file was changed" in err


def test_the_root_is_left_to_others_while_a_model_is_trained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    overlay = tmp_path / "root.yaml"
    overlay.write_text(f"root: {tmp_path}\n")
    is_free: dict[str, bool] = {}

    def step(name: str) -> Summary:
        try:
            with lease(str(tmp_path), wait_seconds=0):
                is_free[name] = True
        except TemporaryError:
            is_free[name] = False
        return Summary(name, 1, 1)

    def retrained(*_arguments: object, run_step: Runner, **_settings: object) -> list[Summary]:
        return [run_step(name, partial(step, name)) for name in ("sequences", "pretrain", "embed")]

    monkeypatch.setattr("jobs.running.spark_session", lambda *_arguments, **_settings: MagicMock())
    monkeypatch.setattr("pipelines.retrain.retrain", retrained)
    code, _, err = outcome(capsys, "retrain", "--config", SHOP, "--config", str(overlay), "--as-of", AS_OF)
    assert (code, err) == (0, "")
    assert is_free == {"sequences": False, "pretrain": True, "embed": False}
    with lease(str(tmp_path), wait_seconds=0):
        pass
