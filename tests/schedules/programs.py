"""A `caspr-spark` that does nothing but note how it was called and end with the exit codes that a test wants."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from jobs.cli import app, parsed_as_of

PROGRAM = """#!/bin/sh
cd "{folder}"
echo "$@" >> calls
code=$(head -n 1 codes)
sed -i 1d codes
echo "error: exit code $code" >&2
exit "$code"
"""
SLEEP = """#!/bin/sh
echo "$@" >> "{folder}/naps"
"""


@dataclass(frozen=True)
class Home:
    """A folder like a checkout, whose .venv/bin holds the program (and a `sleep` that does not)."""

    folder: Path

    def ends_with(self, *codes: int) -> None:
        """The exit codes of the calls that follow, in order."""
        (self.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        for name in ("calls", "naps"):
            (self.folder / name).unlink(missing_ok=True)

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def calls(self) -> list[list[str]]:
        return [line.split() for line in self.lines("calls")]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.folder / '.venv' / 'bin'}:{os.environ['PATH']}"}


def home(folder: Path) -> Home:
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("caspr-spark", PROGRAM), ("sleep", SLEEP)):
        (programs / name).write_text(text.format(folder=folder))
        (programs / name).chmod(0o755)
    return Home(folder)


def parsed(words: list[str]) -> dict[str, Any]:
    """What the command line makes of a verb and its options; a mistake in them is an error."""
    verb, *options = words
    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    found: dict[str, Any] = command.make_context(verb, options).params
    for time in found["as_of"] or []:
        parsed_as_of(time)
    return found
