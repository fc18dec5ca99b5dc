"""Messages to whoever is on duty: a JSON line to a program or at the end of a file. A sink that fails stops nothing."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_PAUSES = (1.0, 4.0)
"""Seconds between the attempts."""
_TIMEOUT_SECONDS = 30


def undelivered(
    message: Mapping[str, Any],
    *,
    command: Sequence[str],
    file: str | None,
    setting: str,
    pause: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Deliver a message to each sink that is given, trying three times; returns a line for each that did not take it.

    `setting` names the sinks in these lines: monitor.alert for monitor.alert_command and monitor.alert_file.
    """
    line = json.dumps(message, sort_keys=True) + "\n"
    sinks: list[tuple[str, Callable[[], None]]] = []
    if command:
        sinks.append((f"{setting}_command {command[0]}", lambda: _piped(line, command)))
    if file:
        sinks.append((f"{setting}_file {file}", lambda: _appended(line, Path(file))))
    return [f"{name}: {problem}" for name, send in sinks if (problem := _problem(send, pause))]


def _problem(send: Callable[[], None], pause: Callable[[float], None]) -> str:
    """Empty once it was sent."""
    reason = ""
    for seconds in (*_PAUSES, None):
        try:
            send()
        except (OSError, subprocess.SubprocessError) as error:
            reason = str(error)
        else:
            return ""
        if seconds is not None:
            pause(seconds)
    return f"{len(_PAUSES) + 1} attempts failed: {reason}"


def _piped(line: str, command: Sequence[str]) -> None:
    subprocess.run(command, input=line, text=True, check=True, timeout=_TIMEOUT_SECONDS, stdout=subprocess.DEVNULL)


def _appended(line: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(line)
        lines.flush()
        os.fsync(lines.fileno())
