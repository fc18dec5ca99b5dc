"""The chunks of a batch side by side, one a thread, and torch's operators in each on that thread alone.

A chunk is small: shared out operator by operator, it would spend the processors on waiting for each other.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class ChunkThreads:
    """While it is open, torch computes on one thread in each of `size` threads."""

    _lock = Lock()
    _num_open, _of_torch = 0, 1
    """Of all that are open at the same time: their number, and the threads of torch before the first of them."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> Self:
        with self._lock:
            if ChunkThreads._num_open == 0:
                ChunkThreads._of_torch = torch.get_num_threads()
            ChunkThreads._num_open += 1
            torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(self.size, thread_name_prefix="chunk")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pool.shutdown()
        with self._lock:
            ChunkThreads._num_open -= 1
            torch.set_num_threads(self._of_torch)

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results in the order of the items; no more of them at a time than there are threads, and one that waits
        for the next of these to be free."""
        if self.size == 1:
            yield from map(work, items)
            return
        left, begun = iter(items), deque[Future[Result]]()
        try:
            for item in islice(left, self.size + 1):
                begun.append(self.pool.submit(work, item))
            while begun:
                result = begun.popleft().result()
                for item in islice(left, 1):
                    begun.append(self.pool.submit(work, item))
                yield result
        finally:
            for one in begun:  # the caller has enough, or one failed
                one.cancel()
