"""A process that dies between two of its writes, played by an exception that nothing in the program catches."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaMergeBuilder
from pyspark.sql import DataFrameWriter

from caspr_spark.disk import SCRATCH

_PLACES = (
    (DataFrameWriter, "save"),
    (DataFrameWriter, "parquet"),
    (DeltaMergeBuilder, "execute"),
    (os, "replace"),
    (shutil, "rmtree"),
)
"""Where a refresh changes what lies below a root: Delta commits in `save` and `execute`, Spark writes sequences in
`parquet`, other files take their place in `replace` (`Path.replace` calls it). Moments inside of one of these, and the
links by which another champion gets its table, are not among them."""


class Killed(BaseException):
    """The process is dead: nothing catches it, as nothing catches SIGKILL."""


@contextmanager
def killed_after(num_writes: int, root: str) -> Iterator[list[str]]:
    """Let whatever the block writes below `root` end in Killed after so many writes; yields what was written so far.

    All moments between two writes are alike for whoever comes after, so that to die right after one is to die right
    before the next. Once dead, nothing is tidied up either. A block that writes no more than that ends as usual.
    """
    written: list[str] = []

    def watched(write: Callable[..., Any]) -> Callable[..., Any]:
        def write_unless_dead(*args: Any, **options: Any) -> Any:
            if len(written) == num_writes:
                raise Killed
            before = _files(root)
            result = write(*args, **options)
            if changed := _files(root) ^ before:
                written.append(f"{min(changed)[0].parts[0]} by {write.__name__}")
            return result

        return write_unless_dead

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in _PLACES:
            patch.setattr(owner, name, watched(getattr(owner, name)))
        yield written


def _files(root: str) -> set[tuple[Path, int]]:
    """Relative path and time of change of all files but scratch, which nobody reads but who wrote it."""
    paths = [path for path in Path(root).rglob("*") if path.is_file() and SCRATCH not in path.parts]
    return {(path.relative_to(root), path.stat().st_mtime_ns) for path in paths}
