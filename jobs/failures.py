"""Failures of what we stand on (disk, Java, another program that writes our tables), each told in one message."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from delta.exceptions import (
    ConcurrentAppendException,
    ConcurrentDeleteDeleteException,
    ConcurrentDeleteReadException,
    ConcurrentTransactionException,
    ConcurrentWriteException,
    DeltaConcurrentModificationException,
    MetadataChangedException,
    ProtocolChangedException,
)
from py4j.protocol import Py4JError, Py4JNetworkError
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from caspr_spark.errors import CasprError, TemporaryError

_CONFLICTS = (  # the first is the parent of the others in Java, but not in Python
    DeltaConcurrentModificationException,
    ConcurrentAppendException,
    ConcurrentDeleteDeleteException,
    ConcurrentDeleteReadException,
    ConcurrentTransactionException,
    ConcurrentWriteException,
    MetadataChangedException,
    ProtocolChangedException,
)
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explained_failures(root: str, *, log: str) -> Iterator[None]:
    """Raise a CasprError in place of a failure inside that a user can mend; `log` is where more is to be found.

    Raises:
        CasprError: the disk is full, or Java is not there or ended.
        TemporaryError: another program wrote the same table.
    """
    try:
        yield
    except CasprError:
        raise
    except _CONFLICTS as error:
        raise TemporaryError(
            f"{root}: another program wrote a table meanwhile; run the same command again "
            f"({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:
        if _is_full(error):
            raise CasprError(
                f"{root}: a disk is full, the root's or that of Spark's temporary files (spark.local.dir). The tables "
                f"are as they were before; make room and run the same command again. More: {log}"
            ) from error
        if _is_java_gone(error):
            raise CasprError(
                "Spark's Java process could not be started, or ended: it was killed (for its memory, perhaps: "
                f"spark.driver.memory), or Java is not installed. Run the same command again. More: {log}"
            ) from error
        raise


def stop(spark: SparkSession) -> None:
    """End the session, also where its Java process has ended before."""
    try:
        spark.stop()
    except Exception as error:
        if not _is_java_gone(error):
            raise


def _is_full(error: Exception) -> bool:
    """Python says it by number; Spark only in the text of a failed task."""
    return (isinstance(error, OSError) and error.errno in _FULL_NUMBERS) or any(sign in str(error) for sign in _FULL)


def _is_java_gone(error: Exception) -> bool:
    if isinstance(error, PySparkRuntimeError):
        return error.getCondition() == "JAVA_GATEWAY_EXITED"
    if isinstance(error, Py4JNetworkError | ConnectionError):
        return True
    return type(error) is Py4JError and "Trace:" not in str(error)  # an answer that never came, without Java's words
