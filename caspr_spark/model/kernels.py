"""The functions of `kernels.c`, called with tensors."""

import ctypes

import torch
from torch import Tensor

from caspr_spark import native

NO_MEMORY = 1
LANES = 16
"""Rows of numbers that are computed as whole vectors of a processor, be it of 8 or of 16, are multiples of it."""
Argument = Tensor | int | float | None


def are_there() -> bool:
    """Whether they were compiled; without them torch computes the same."""
    return _library() is not None


def can_take(numbers: Tensor) -> bool:
    """Whether they were compiled, and for numbers as these; a graph that is exported has torch's operators."""
    is_float = numbers.dtype == torch.float32 and numbers.device.type == "cpu"
    return is_float and not torch.compiler.is_exporting() and are_there()


def call(name: str, *arguments: Argument) -> None:
    """Call one: a tensor as where its numbers start, None as NULL. Other threads of Python go on meanwhile.

    Raises MemoryError where it finds no room to work in, IndexError where an id is none of the values.
    """
    library = _library()
    assert library is not None
    answer = getattr(library, name)(*(_argument(argument) for argument in arguments))
    if answer:
        raise MemoryError(f"{name}: no memory") if answer == NO_MEMORY else IndexError(f"{name}: an id out of range")


def _argument(argument: Argument) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return ctypes.c_void_p(None if argument is None else argument.data_ptr())


def _library() -> ctypes.CDLL | None:
    return native.library("caspr_spark.model", "kernels.c")
