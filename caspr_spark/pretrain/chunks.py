"""The chunks of a batch side by side, one a thread, and torch's operators in each on that thread alone.

A chunk is small: shared out operator by operator, it would spend the processors on waiting for each other.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from caspr_spark.model.batch import chunk_events, even_groups

MOST_CUSTOMERS = 160
"""Of a chunk: more would be faster for short histories, and keep more in memory."""
LEAST_CHUNKS = 2
"""Of a batch, or a small one would keep one thread busy. The same for any number of threads: so is the training."""
GPU_EVENTS, GPU_NUMBERS = 2**16, 2**23
"""As `batch.MOST_EVENTS` and `batch.CACHED_NUMBERS`, for a GPU: enough to keep it busy, not too much for its memory."""
WHOLE_CHUNK = 32
"""Customers of a chunk where it matters to the loss who goes through the network with whom, or before training."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def cut(num_events_B: NDArray[np.integer[Any]], *, width: int, device: torch.device) -> list[NDArray[np.intp]]:
    """Positions of a batch's customers, chunk by chunk; those of similar length together, so that little is padding.

    `width`: of the encoder.
    """
    if device.type == "cuda":
        most_events = max(1, min(GPU_EVENTS, GPU_NUMBERS // width))
        return even_groups(num_events_B, most_customers=GPU_EVENTS, most_events=most_events, least_groups=1)
    most_events = chunk_events(width)
    return even_groups(num_events_B, most_customers=MOST_CUSTOMERS, most_events=most_events, least_groups=LEAST_CHUNKS)


class ChunkThreads:
    """While it is open, torch computes on one thread in each of `size` threads."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> Self:
        self.of_torch = torch.get_num_threads()
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(self.size, thread_name_prefix="chunk")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pool.shutdown()
        torch.set_num_threads(self.of_torch)

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results in the order of the items; no more of them at a time than there are threads."""
        if self.size == 1:
            yield from map(work, items)
            return
        for start in range(0, len(items), self.size):
            yield from self.pool.map(work, items[start : start + self.size])
