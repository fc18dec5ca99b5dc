"""One writer at a time below a root: a lock that the operating system takes back when its holder dies."""

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caspr_spark.errors import ConfigError, TemporaryError

LEASE_FILE = ".lease"


@contextmanager
def lease(root: str, *, wait_seconds: float) -> Iterator[None]:
    """Hold the root while the block runs; another holder is waited for, with jitter.

    Raises:
        ConfigError: the root cannot be made or written.
        TemporaryError: it is still held after `wait_seconds`.
    """
    place = Path(root) / LEASE_FILE
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        held = place.open("a")
    except OSError as error:
        raise _not_writable(root, error.strerror) from None
    deadline = time.monotonic() + wait_seconds
    with held as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TemporaryError(
                        f"{root}: another run holds {LEASE_FILE} and did not end within {wait_seconds:g} s; "
                        "run the same command again later, or raise refresh.wait_seconds"
                    ) from None
                time.sleep(min(left, random.uniform(0.5, 1.5)))
        yield  # closing the file ends the lock


def demand_writable(root: str) -> None:
    """Raises ConfigError, naming every folder of the root that this user may not write."""
    folders = (path for path in sorted(Path(root).iterdir()) if path.is_dir())
    if locked := [path.name for path in folders if not os.access(path, os.W_OK | os.X_OK)]:
        raise _not_writable(root, f"no permission, or a read-only file system, for {', '.join(locked)}")


def _not_writable(root: str, why: str | None) -> ConfigError:
    return ConfigError(f"{root}: cannot be written ({why}); nothing was done. Mend that, or give another root")
