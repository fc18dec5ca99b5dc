"""Notices of published runs that wait to be delivered: small files, which outlive a process that is killed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_notice(root: str, notice: Mapping[str, Any]) -> None:
    """Let the notice of a run (`run_id`) wait; that of the same run gives way to it."""
    path = _folder(root) / f"{notice['run_id']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(notice))
    part.replace(path)


def waiting_notices(root: str) -> list[dict[str, Any]]:
    """The notices that were not delivered yet; run_ids begin with their as_of, so the oldest comes first."""
    return [json.loads(path.read_text()) for path in sorted(_folder(root).glob("*.json"))]


def remove_notice(root: str, notice: Mapping[str, Any]) -> None:
    (_folder(root) / f"{notice['run_id']}.json").unlink()


def _folder(root: str) -> Path:
    return Path(root) / "outbox"
