"""The workers that train together: how many, which one is this, and sums and copies over all of them.

Three ways, one interface. Horovod is imported where it is used: it need not be installed.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import torch
from torch import Tensor

STORE = "CASPR_SPARK_STORE"
"""Environment variable: a file over which the workers of one host find one another."""


class Ranks(Protocol):
    """All ranks make the same calls in the same order."""

    rank: int
    size: int

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over the ranks, equal bit for bit on each."""

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of rank 0."""

    def close(self) -> None:
        """Leave the group."""


class SingleRank:
    """One process: it is everybody."""

    rank = 0
    size = 1

    def sum_(self, tensor: Tensor) -> None:
        pass

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        pass

    def close(self) -> None:
        pass


class HorovodRanks:
    """Processes that horovodrun or horovod.spark started."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        self.hvd = hvd
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()

    def sum_(self, tensor: Tensor) -> None:
        self.hvd.allreduce_(tensor, op=self.hvd.Sum, name=f"sum.{tensor.dtype}.{tensor.numel()}")

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        for index, tensor in enumerate(tensors):
            self.hvd.broadcast_(tensor, root_rank=0, name=f"broadcast.{index}.{tensor.dtype}.{tensor.numel()}")

    def close(self) -> None:
        self.hvd.shutdown()


class TorchRanks:
    """Processes that torchrun started, over gloo. They find one another over the file of STORE, or over a socket."""

    def __init__(self, timeout_seconds: int) -> None:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        path = os.environ.get(STORE)
        store = torch.distributed.FileStore(path, size) if path else None  # type: ignore[attr-defined]
        torch.distributed.init_process_group(
            "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_seconds)
        )
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def sum_(self, tensor: Tensor) -> None:
        torch.distributed.all_reduce(tensor)

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, src=0)

    def close(self) -> None:
        torch.distributed.destroy_process_group()


def open_ranks(launcher: str, timeout_seconds: int) -> Ranks:
    """The ranks of a worker that `launcher` started."""
    if launcher in ("horovod", "horovod_spark"):
        return HorovodRanks()
    if launcher in ("torchrun", "torch_spark"):
        return TorchRanks(timeout_seconds)
    return SingleRank()
