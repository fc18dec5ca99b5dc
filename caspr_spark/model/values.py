"""What an event holds as numbers of a fixed place: its source, and the values of its categorical and set attributes."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.config import ModelSection
from caspr_spark.errors import CasprError
from caspr_spark.manifest import Layout
from caspr_spark.model import kernels
from caspr_spark.model.batch import Batch
from schemas.vocabulary import MASKED_ID, PADDING_ID

SOURCE = "source"
CALENDAR = ("hour", "weekday", "day_of_month", "month")
"""Categorical attributes that say when, not what."""
MOST_VALUES = 2000
"""Ids of an attribute that have a place of their own, the most frequent first; the others are seen as embeddings."""


class Sources:
    """The kinds of activity: the ids of the attribute `source`, or one kind where a layout has none."""

    def __init__(self, layout: Layout) -> None:
        names = [attribute.name for attribute in layout.categorical]
        self.position = names.index(SOURCE) if SOURCE in names else None
        self.size = layout.categorical[self.position].num_ids if self.position is not None else 1

    def one_hot(self, batch: Batch) -> Tensor:
        """[B, T, S] float; zeros where padded."""
        if self.position is None:
            return batch.is_real_BT[:, :, None].float()
        hot_BTS = functional.one_hot(batch.categorical_BTC[:, :, self.position], self.size).float()
        return hot_BTS * batch.is_real_BT[:, :, None]


class Amounts:
    """The numerical attributes whose sums are foretold and kept: those of `model.amounts`, or all of them."""

    def __init__(self, section: ModelSection, layout: Layout) -> None:
        names = layout.numerical if section.amounts is None else section.amounts
        if unknown := [name for name in names if name not in layout.numerical]:
            raise CasprError(f"model.amounts: no numerical attribute of an activity is called {', '.join(unknown)}")
        self.positions = [layout.numerical.index(name) for name in names]
        self.size = len(self.positions)


class Values:
    """All values of the categorical (but source and calendar) and set attributes side by side: V places."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.positions = [
            position
            for position, attribute in enumerate(layout.categorical)
            if attribute.name not in (SOURCE, *CALENDAR)
        ]
        attributes = [layout.categorical[position] for position in self.positions] + list(layout.sets)
        self.sizes = [min(attribute.num_ids, MOST_VALUES) for attribute in attributes]
        self.size = sum(self.sizes)
        starts = [sum(self.sizes[:number]) for number in range(len(self.sizes))]
        widths = [1] * len(self.positions) + [attribute.max_values for attribute in layout.sets]
        self.start_X, self.size_X = _repeated(starts, widths), _repeated(self.sizes, widths)
        """Of each of the X ids of an event."""
        self.attribute_V = _repeated(range(len(self.sizes)), self.sizes)
        """Which attribute has the place."""
        self.is_value_V = torch.ones(self.size, dtype=torch.bool)
        """False at the places of padding and "masked", which no event has."""
        for start in starts:
            self.is_value_V[[start + PADDING_ID, start + MASKED_ID]] = False

    def log_sums(self, batch: Batch, weights_BJT: Tensor) -> Tensor:
        """[B, J, V]: log1p of, for each of J weightings of the events, the summed weights of those that hold the value.

        No weight is below 0.
        """
        num_weightings = weights_BJT.shape[1]
        ids_BTX, start_X, size_X = self._ids(batch)
        if kernels.can_take(weights_BJT) and not weights_BJT.requires_grad:
            logs_BJV = weights_BJT.new_empty(ids_BTX.shape[0], num_weightings, self.size)
            sizes = (*ids_BTX.shape, num_weightings, self.size)
            weights_BTJ = weights_BJT.transpose(1, 2).contiguous()
            kernels.call("log_value_sums", *sizes, ids_BTX, start_X, size_X, weights_BTJ, logs_BJV)
            return logs_BJV
        customer_Y, event_Y, place_Y = self._held(ids_BTX, start_X, size_X)
        sums_BVJ = weights_BJT.new_zeros(ids_BTX.shape[0], self.size, num_weightings)
        weights_YJ = weights_BJT.transpose(1, 2)[customer_Y, event_Y]
        sums_BVJ.flatten(0, 1).index_add_(0, customer_Y * self.size + place_Y, weights_YJ)
        return (1 + sums_BVJ.transpose(1, 2)).log()  # as exact as log1p where x is not tiny, and four times as fast

    def held(self, batch: Batch, is_asked_BJT: Tensor) -> Tensor:
        """bool [B, J, V]: for each of J choices of events, whether one of them holds the value."""
        num_choices = is_asked_BJT.shape[1]
        ids_BTX, start_X, size_X = self._ids(batch)
        is_held_BJV = is_asked_BJT.new_zeros(ids_BTX.shape[0], num_choices, self.size)
        if is_asked_BJT.device.type == "cpu" and kernels.are_there():
            (num_customers, num_events, num_ids), is_asked_BJT = ids_BTX.shape, is_asked_BJT.contiguous()
            sizes = (num_customers, num_events, num_ids, num_choices, self.size)
            kernels.call("values_held", *sizes, ids_BTX, start_X, size_X, is_asked_BJT, is_held_BJV)
            return is_held_BJV
        customer_Y, event_Y, place_Y = self._held(ids_BTX, start_X, size_X)
        pair_Z, choice_Z = is_asked_BJT.transpose(1, 2)[customer_Y, event_Y].nonzero().unbind(dim=1)
        is_held_BJV[customer_Y[pair_Z], choice_Z, place_Y[pair_Z]] = True
        return is_held_BJV

    def _ids(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(ids_BTX, start_X, size_X): what each event holds, and where the places of those ids start and end."""
        ids_BTX = torch.cat([batch.categorical_BTC[:, :, self.positions], batch.sets_BTS], dim=-1)
        return ids_BTX, self.start_X.to(batch.device), self.size_X.to(batch.device)

    @staticmethod
    def _held(ids_BTX: Tensor, start_X: Tensor, size_X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(customer_Y, event_Y, place_Y) of the Y pairs of an event and a value of it that has a place."""
        has_place_BTX = (ids_BTX != PADDING_ID) & (ids_BTX < size_X)
        customer_Y, event_Y, id_Y = has_place_BTX.nonzero().unbind(dim=1)
        return customer_Y, event_Y, start_X[id_Y] + ids_BTX[customer_Y, event_Y, id_Y]


def _repeated(numbers: Iterable[int], times: Iterable[int]) -> Tensor:
    """Each number so many times, int64."""
    return torch.tensor([number for number, often in zip(numbers, times, strict=True) for _ in range(often)]).long()
