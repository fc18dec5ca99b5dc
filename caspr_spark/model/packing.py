"""The events of a batch one behind the other, all customers' together, so that no time is spent on padding."""

from functools import cached_property

import torch
from torch import Tensor

from caspr_spark.model.batch import Batch


class Packing:
    """[B, T, X] to [L, X], the L real events, and back.

    On a GPU, and in a graph that is exported, where a shape that depends on the data is dear, L is all B * T places.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.shape = batch.is_real_BT.shape
        self.places_L: Tensor | None = None
        """int64: customer * T + event; None where L is all places."""
        if batch.device.type == "cpu" and not torch.compiler.is_exporting():
            is_real_BT = batch.is_real_BT
            self.places_L = None if is_real_BT.all() else is_real_BT.flatten().nonzero()[:, 0]

    @cached_property
    def starts(self) -> Tensor:
        """int64 [B]: the place in L of each customer's first event."""
        if self.places_L is None:
            return torch.arange(self.shape[0], device=self.batch.device) * self.shape[1]
        num_events_B = self.batch.is_real_BT.sum(dim=1)
        return num_events_B.cumsum(dim=0) - num_events_B

    def pack(self, of_events_BTX: Tensor) -> Tensor:
        """[L, X], or [L] of [B, T]."""
        of_places = of_events_BTX.flatten(0, 1)
        return of_places if self.places_L is None else of_places.index_select(0, self.places_L)

    def unpack(self, of_events_LX: Tensor) -> Tensor:
        """[B, T, X], with zeros where padded unless L is all places."""
        of_places = of_events_LX
        if self.places_L is not None:
            nothing = of_events_LX.new_zeros(self.shape[0] * self.shape[1], of_events_LX.shape[1])
            of_places = nothing.index_copy(0, self.places_L, of_events_LX)
        return of_places.view(*self.shape, of_places.shape[1])
