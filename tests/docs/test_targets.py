"""Makefile, continuous integration and README agree."""

import re
import shlex
import subprocess
from datetime import timedelta
from pathlib import Path

from caspr_spark.config_file import load_config
from jobs.options import parsed_as_of

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))


def recipe(target: str) -> list[str]:
    """The commands of the target itself, as make would run them."""
    (lines,) = re.findall(rf"^{target}:[^\n]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.MULTILINE)
    return [line.strip().lstrip("@").replace("$(BIN)", ".venv/bin") for line in lines.splitlines()]


def test_targets_that_the_readme_names_are_in_the_makefile() -> None:
    in_blocks = re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    in_text = re.findall(r"`make ([a-z-]+)`", README)
    assert {"demo", "test", "dist"} <= {*in_blocks, *in_text}
    assert {*in_blocks, *in_text} - TARGETS == set()


def test_help_lists_every_target() -> None:
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^\s+make ([a-z-]+)", printed, re.MULTILINE)) == TARGETS


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    (command,) = re.findall(r"^```bash\n(make test)\n```$", README, re.MULTILINE)
    made = {target for line in ci_lines() if line[0] == "make" for target in line[1:]}
    assert command.split()[1] in made
    assert "check" in made
    assert made - TARGETS == set()


def ci_lines() -> list[list[str]]:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    return [shlex.split(line, comments=True) for line in text.splitlines() if shlex.split(line, comments=True)]


def test_the_slow_tests_are_the_rest_of_the_tests() -> None:
    assert recipe("test") == ['.venv/bin/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile']
    assert recipe("test-slow") == [".venv/bin/python -m pytest -m slow"]


def test_dist_and_bench_run_what_their_tests_run() -> None:
    assert recipe("dist") == [".venv/bin/python tools/make_dist.py"]
    for target in ("bench", "bench-train", "bench-distributed", "bench-gpu", "bench-refresh", "bench-quality", "soak"):
        assert recipe(target) == [f".venv/bin/python -m jobs.{target.replace('-', '_')}"]


def test_the_demo_commands_are_well_formed() -> None:
    build, refresh = (shlex.split(line) for line in " ".join(recipe("demo")).replace("\\", "").split(".venv/bin/")[1:])
    assert build[:2] == ["caspr-spark", "full-build"]
    assert refresh[:2] == ["caspr-spark", "refresh"]
    for words in (build, refresh):
        assert words[2:4] == ["--config", "conf/complete_journey.yaml"]
        load_config([ROOT / words[3]])
    assert build[4::2] == ["--as-of"]
    assert refresh[4::2] == 3 * ["--as-of"]
    first, *later = map(parsed_as_of, build[5::2] + refresh[5::2])
    assert [time - first for time in later] == [timedelta(weeks=number) for number in (1, 2, 3)]
    assert f"{first:%-d %B}" in README
