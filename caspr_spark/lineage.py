"""Fingerprints: equal inputs give equal fingerprints, so a rerun can say that nothing changed. No clock is involved."""

import hashlib
import json
from pathlib import Path
from typing import Any


def fingerprint(**parts: Any) -> str:
    """16 hex digits over the named parts; anything JSON can hold, and whatever `str` shows of the rest."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
