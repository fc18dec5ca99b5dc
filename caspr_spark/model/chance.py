"""What is drawn at random inside a network while it is trained: of the thread, and repeatable."""

import contextlib
import threading
from collections.abc import Iterator

import torch

CPU = torch.device("cpu")
_drawn = threading.local()


@contextlib.contextmanager
def seeded(*, chunk_seed: int, step_seed: int, device: torch.device = CPU) -> Iterator[None]:
    """What is drawn in this thread follows from these seeds, whatever other threads do. Without it, from torch's.

    `device`: where the network computes. What every chunk draws on a GPU is drawn from torch's generator there.
    """
    if device.type == "cuda":
        torch.cuda.manual_seed(chunk_seed)
    _drawn.of_chunk, _drawn.step_seed = torch.Generator().manual_seed(chunk_seed), step_seed
    try:
        yield
    finally:
        _drawn.of_chunk, _drawn.step_seed = None, None


def of_chunk() -> torch.Generator | None:
    """For what every chunk of a batch draws for itself."""
    return getattr(_drawn, "of_chunk", None)


def of_step() -> torch.Generator | None:
    """For what all chunks of a step draw alike, on all workers. It starts anew with every call."""
    seed = getattr(_drawn, "step_seed", None)
    return None if seed is None else torch.Generator().manual_seed(seed)
