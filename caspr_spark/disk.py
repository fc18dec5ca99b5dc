"""Tables that are needed more than once in a step, kept on disk for as long as it runs."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from pyspark import StorageLevel
from pyspark.sql import DataFrame

Keep = Callable[[DataFrame], DataFrame]

SCRATCH = "scratch"


@contextmanager
def kept_on_disk() -> Iterator[Keep]:
    """A function that keeps a table on the workers' disks; all that it kept is given back at the end, also when the
    step fails."""
    with ExitStack() as kept:

        def keep(table: DataFrame) -> DataFrame:
            kept.callback(table.unpersist)
            return table.persist(StorageLevel.DISK_ONLY)

        yield keep


@contextmanager
def written_aside(root: str) -> Iterator[Keep]:
    """A function that writes a table to a folder below `root` and reads it back; the folder goes at the end.

    What is made of the table is then planned from its files alone. Where tables are made of one another several times
    over, Spark otherwise plans all of their past each time, which takes far longer than the rows do.
    """
    folder = Path(root) / SCRATCH / uuid4().hex
    try:

        def write(table: DataFrame) -> DataFrame:
            place = str(folder / uuid4().hex)
            table.write.parquet(place)
            return table.sparkSession.read.schema(table.schema).parquet(place)

        yield write
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_scratch(root: str) -> None:
    """Delete what killed steps left of `written_aside`."""
    shutil.rmtree(Path(root) / SCRATCH, ignore_errors=True)
