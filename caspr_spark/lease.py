"""One writer at a time below a root: a lock that the operating system takes back when its holder dies."""

import fcntl
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caspr_spark.errors import TemporaryError

LEASE_FILE = ".lease"


@contextmanager
def lease(root: str, *, wait_seconds: float) -> Iterator[None]:
    """Hold the root while the block runs; another holder is waited for, with jitter.

    Raises:
        TemporaryError: it is still held after `wait_seconds`.
    """
    place = Path(root) / LEASE_FILE
    place.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with place.open("a") as file:
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
