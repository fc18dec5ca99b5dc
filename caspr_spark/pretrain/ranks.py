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
    local_rank: int
    """Among the ranks of this host."""

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
    local_rank = 0

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
        self.local_rank: int = hvd.local_rank()
        self.reaches_gpus: bool = hvd.nccl_built() and torch.cuda.device_count() >= hvd.local_size()

    def sum_(self, tensor: Tensor) -> None:
        exchanged = self._reachable(tensor)
        self.hvd.allreduce_(exchanged, op=self.hvd.Sum, name=f"sum.{tensor.dtype}.{tensor.numel()}")
        if exchanged is not tensor:
            tensor.copy_(exchanged)

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        for index, tensor in enumerate(tensors):
            sent = self._reachable(tensor)
            self.hvd.broadcast_(sent, root_rank=0, name=f"broadcast.{index}.{tensor.dtype}.{tensor.numel()}")
            if sent is not tensor:
                tensor.copy_(sent)

    def _reachable(self, tensor: Tensor) -> Tensor:
        """The tensor, or a copy in the CPU's memory: for a Horovod without NCCL, or ranks that share a GPU."""
        return tensor if self.reaches_gpus else tensor.cpu()

    def close(self) -> None:
        self.hvd.shutdown()


class TorchRanks:
    """Processes that torchrun started. They find one another over the file of STORE, or over a socket.

    They exchange over gloo, from GPU to GPU over NCCL where each has one of its own.
    """

    def __init__(self, timeout_seconds: int, *, shares_gpus: bool) -> None:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        path = os.environ.get(STORE)
        store = torch.distributed.FileStore(path, size) if path else None  # type: ignore[attr-defined]
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        backend = "gloo" if shares_gpus else "cpu:gloo,cuda:nccl"
        torch.distributed.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_seconds)
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
        of_host = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        shares_gpus = launcher == "torch_spark" or torch.cuda.device_count() < of_host  # a task of Spark is alone
        return TorchRanks(timeout_seconds, shares_gpus=shares_gpus)
    return SingleRank()
