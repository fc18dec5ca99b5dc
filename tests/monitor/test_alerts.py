"""Alerts reach a program or a file, or are said not to."""

import json
import sys
from functools import partial
from pathlib import Path

from caspr_spark.delivery import undelivered

unsent = partial(undelivered, setting="monitor.alert")
ALERT = {"alert": "drift", "run_id": "r1", "text": "unknown values of page 0.4% → 8.1%"}


def test_an_alert_is_one_json_line_for_the_program_and_for_the_file(tmp_path: Path) -> None:
    got, file = tmp_path / "got", tmp_path / "alerts" / "drift.jsonl"
    program = f"import sys; open({str(got)!r}, 'w').write(sys.stdin.read())"
    for _ in range(2):
        assert unsent(ALERT, command=[sys.executable, "-c", program], file=str(file)) == []
    assert json.loads(got.read_text()) == ALERT
    assert [json.loads(line) for line in file.read_text().splitlines()] == [ALERT, ALERT]


def test_f86_a_sink_that_is_down_is_tried_again_and_reported(tmp_path: Path) -> None:
    pauses: list[float] = []
    (tmp_path / "taken").write_text("a file where a folder should be")
    command, file = ["no-such-program"], str(tmp_path / "taken" / "drift.jsonl")
    problems = unsent(ALERT, command=command, file=file, pause=pauses.append)
    assert len(pauses) == 4  # two between three attempts, for each sink
    assert [problem.split(":")[0] for problem in problems] == [
        "monitor.alert_command no-such-program",
        f"monitor.alert_file {file}",
    ]
    assert all("3 attempts failed" in problem for problem in problems)


def test_f86_a_sink_that_comes_back_gets_the_alert_once(tmp_path: Path) -> None:
    tries, got = tmp_path / "tries", tmp_path / "got"
    program = (
        "import sys, pathlib\n"
        f"tries = pathlib.Path({str(tries)!r})\n"
        "tries.write_text((tries.read_text() if tries.exists() else '') + '.')\n"
        "if tries.read_text() == '.': sys.exit(1)\n"
        f"open({str(got)!r}, 'a').write(sys.stdin.read())\n"
    )
    assert unsent(ALERT, command=[sys.executable, "-c", program], file=None, pause=lambda _: None) == []
    assert [json.loads(line) for line in got.read_text().splitlines()] == [ALERT]
