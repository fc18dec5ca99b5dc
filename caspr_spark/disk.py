"""Tables that are needed more than once in a step, kept on the workers' disks for as long as it runs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pyspark import StorageLevel
from pyspark.sql import DataFrame

Keep = Callable[[DataFrame], DataFrame]


@contextmanager
def kept_on_disk() -> Iterator[Keep]:
    """A function that keeps a table on disk; all that it kept is given back at the end, also when the step fails."""
    with ExitStack() as kept:

        def keep(table: DataFrame) -> DataFrame:
            kept.callback(table.unpersist)
            return table.persist(StorageLevel.DISK_ONLY)

        yield keep
