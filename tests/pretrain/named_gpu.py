"""A GPU in name, for machines without one: its tensors are known by their storage, and lie in the CPU's memory.

Torch's functions see `device` cuda:0 on them. As on a real one, an operator that is given tensors of both devices
fails, unless the CPU's is a single number, and so does what reads one into numpy. It does not see what a backward pass
does within, generators, and what autocast would do.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

GPU = torch.device("cuda", 0)
OF_BOTH = {Tensor.copy_, Tensor.data.__set__, torch._has_compatible_shallow_copy_type}  # type: ignore[attr-defined]
READERS = {Tensor.numpy, Tensor.__array__}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}


class NamedGpu(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, Any] = {}
        """Address -> storage of the GPU's tensors; kept, or another tensor could get the address."""
        self.seen: set[str] = set()
        """Names of the functions that were given tensors of the GPU."""

    def is_here(self, tensor: Tensor) -> bool:
        storages = [tensor._indices(), tensor._values()] if tensor.is_sparse else [tensor]
        return any(part.untyped_storage().data_ptr() in self.storages for part in storages if part.numel())

    def put(self, tensor: Tensor) -> None:
        for part in [tensor._indices(), tensor._values()] if tensor.is_sparse else [tensor]:
            if part.numel():
                self.storages[part.untyped_storage().data_ptr()] = part.untyped_storage()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        here = [one for one in tensors if self.is_here(one)]
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return GPU if here else func(*args, **kwargs)
        if func is Tensor.pin_memory:
            return args[0]
        if here and func in READERS:
            raise AssertionError(f"{func}: a tensor of the GPU")
        if func is Tensor.cpu:
            return args[0].clone() if here else args[0]
        moves = func is Tensor.to and GPU in [*args, kwargs.get("device")]
        asked = kwargs.get("device")
        if asked == GPU:
            kwargs["device"] = torch.device("cpu")
        if moves:
            args = tuple(torch.device("cpu") if one == GPU else one for one in args)
            moved = func(*args, **kwargs)
            moved = moved.clone() if moved is args[0] else moved
            self.put(moved.data)
            return moved
        others = [one for one in tensors if one.dim() and one.numel() and not self.is_here(one)]
        indexes = func in INDEXING and not any(one is args[0] for one in others)  # a GPU's may be indexed by a CPU's
        if here and others and func not in OF_BOTH and not indexes:
            raise AssertionError(f"{func}: tensors of both devices, {[tuple(one.shape) for one in others]} of the CPU")
        found = func(*args, **kwargs)
        if func == Tensor.data.__set__ or (not here and asked != GPU):  # type: ignore[attr-defined]
            return found
        self.seen.add(getattr(func, "__name__", str(func)))
        for one in pytree.tree_leaves(found):
            if isinstance(one, Tensor) and func is not Tensor.copy_:
                self.put(one.data)
        return found
