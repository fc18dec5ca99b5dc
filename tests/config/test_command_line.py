"""Wrong usage of `caspr-spark` is exit code 2 and one message, never a traceback."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cli import main

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "conf" / "complete_journey.yaml")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The command line takes SIGTERM for itself; give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and everything that was written."""
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    written = capsys.readouterr()
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, written.out + written.err


@pytest.mark.parametrize("verb", ["build-events", "build-sequences", "embed-customers", "full-build"])
def test_a_naive_as_of_is_exit_2(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, text = outcome(capsys, verb, "--config", CONFIG, "--as-of", "2017-10-02T00:00:00")

    assert code == 2
    assert (
        text.strip()
        == "error: --as-of: '2017-10-02T00:00:00' has no time zone; write e.g. 2017-10-02T00:00:00Z for UTC"
    )


@pytest.mark.parametrize("as_of", ["yesterday", "2017-13-02T00:00:00Z", "1506902400", ""])
def test_an_unreadable_as_of_is_exit_2(capsys: pytest.CaptureFixture[str], as_of: str) -> None:
    code, text = outcome(capsys, "build-events", "--config", CONFIG, "--as-of", as_of)

    assert code == 2
    assert f"expected a time such as 2017-10-02T00:00:00Z, found {as_of!r}" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("arguments", [["build-events"], ["bild-events"], ["build-events", "--config", CONFIG, "--x"]])
def test_wrong_arguments_are_exit_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, text = outcome(capsys, *arguments)

    assert code == 2
    assert "Traceback" not in text


def test_mistakes_in_the_configuration_are_one_message_without_a_traceback(tmp_path: Path) -> None:
    overlay = tmp_path / "shop.yaml"
    overlay.write_text("sequences: {max_event: 1}\nseed: x\n")

    run = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "build-events", "--config", overlay, "--as-of", "2017-10-02T00:00:00Z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2
    assert run.stderr.startswith("error: the configuration has mistakes:\n")
    assert "did you mean 'sequences.max_events'?" in run.stderr
    assert "Traceback" not in run.stdout + run.stderr
