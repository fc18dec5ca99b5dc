"""How a batch is cut into chunks, which are computed side by side (`model.chunk_threads`)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from caspr_spark.model.batch import chunk_events, even_groups

MOST_CUSTOMERS, MOST_EVENTS = 512, 8192
"""Of a chunk: more would be faster for short histories, and keep more in memory."""
LEAST_CHUNKS = 2
"""Of a batch, or a small one would keep one thread busy. The same for any number of threads: so is the training."""
GPU_CUSTOMERS, GPU_EVENTS, GPU_NUMBERS = 2048, 2**16, 2**23
"""As these, and CACHED_NUMBERS of `batch`, for a GPU: enough to keep it busy, not too much for its memory."""
WHOLE_CHUNK = 32
"""Customers of a chunk where it matters to the loss who goes through the network with whom, or before training."""


def cut(num_events_B: NDArray[np.integer[Any]], *, width: int, device: torch.device) -> list[NDArray[np.intp]]:
    """Positions of a batch's customers, chunk by chunk; those of similar length together, so that little is padding.

    `width`: of the encoder.
    """
    if device.type == "cuda":
        most_events = max(1, min(GPU_EVENTS, GPU_NUMBERS // width))
        return even_groups(num_events_B, most_customers=GPU_CUSTOMERS, most_events=most_events, least_groups=1)
    most_events = chunk_events(width, most_events=MOST_EVENTS)
    return even_groups(num_events_B, most_customers=MOST_CUSTOMERS, most_events=most_events, least_groups=LEAST_CHUNKS)
