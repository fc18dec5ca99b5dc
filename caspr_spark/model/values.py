"""What an event holds as numbers of a fixed place: its source, and the values of its categorical and set attributes."""

import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.manifest import Layout
from caspr_spark.model.batch import Batch
from caspr_spark.model.features import set_slices
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


class Values:
    """All values of the categorical (but source and calendar) and set attributes side by side: V places."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.positions = [
            position
            for position, attribute in enumerate(layout.categorical)
            if attribute.name not in (SOURCE, *CALENDAR)
        ]
        sizes = [layout.categorical[position].num_ids for position in self.positions]
        sizes += [attribute.num_ids for attribute in layout.sets]
        self.sizes = [min(size, MOST_VALUES) for size in sizes]
        self.size = sum(self.sizes)
        self.is_value_V = torch.ones(self.size, dtype=torch.bool)
        """False at the places of padding and "masked", which no event has."""
        start = 0
        for size in self.sizes:
            self.is_value_V[[start + PADDING_ID, start + MASKED_ID]] = False
            start += size

    def places(self, batch: Batch) -> Tensor:
        """[B, T, X] int64: the places of an event's values; 0, that of a padding, where there is none."""
        columns = [batch.categorical_BTC[:, :, position, None] for position in self.positions]
        columns += list(set_slices(batch.sets_BTS, self.layout))
        placed, start = [], 0
        for ids_BTX, size in zip(columns, self.sizes, strict=True):
            has_place_BTX = (ids_BTX != PADDING_ID) & (ids_BTX < size) & batch.is_real_BT[:, :, None]
            placed.append(torch.where(has_place_BTX, ids_BTX + start, 0))
            start += size
        return torch.cat(placed, dim=-1)

    def sums(self, places_BTX: Tensor, weights_BJT: Tensor) -> Tensor:
        """[B, J, V]: for each of J weightings of the events, the summed weights of those that hold the value."""
        num_customers, _, num_places = places_BTX.shape
        index_BY = places_BTX.flatten(1)
        summed_BJV = weights_BJT.new_zeros(num_customers, weights_BJT.shape[1], self.size)
        for weighting in range(weights_BJT.shape[1]):
            weights_BTX = weights_BJT[:, weighting, :, None].expand(-1, -1, num_places)
            summed_BJV[:, weighting].scatter_add_(1, index_BY, weights_BTX.reshape(num_customers, -1))
        return summed_BJV * self.is_value_V
