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

    def sums(self, batch: Batch, weights_BJT: Tensor) -> Tensor:
        """[B, J, V]: for each of J weightings of the events, the summed weights of those that hold the value."""
        (num_customers, num_weightings, num_events), device = weights_BJT.shape, weights_BJT.device
        ids_BTX = torch.cat([batch.categorical_BTC[:, :, self.positions], batch.sets_BTS], dim=-1)
        weights_BTJ = weights_BJT.transpose(1, 2)
        sums_BVJ = weights_BJT.new_zeros(num_customers, self.size, num_weightings)
        start_X, size_X = self.start_X.to(device), self.size_X.to(device)
        if kernels.can_take(weights_BJT) and not weights_BJT.requires_grad:
            sizes = (num_customers, num_events, len(size_X), num_weightings, self.size)
            kernels.call("value_sums", *sizes, ids_BTX, start_X, size_X, weights_BTJ.contiguous(), sums_BVJ)
        else:
            has_place_BTX = (ids_BTX != PADDING_ID) & (ids_BTX < size_X)
            customer_Y, event_Y, id_Y = has_place_BTX.nonzero().unbind(dim=1)  # Y pairs of an event and a value of it
            place_Y = customer_Y * self.size + start_X[id_Y] + ids_BTX[customer_Y, event_Y, id_Y]
            sums_BVJ.flatten(0, 1).index_add_(0, place_Y, weights_BTJ[customer_Y, event_Y])
        return sums_BVJ.transpose(1, 2)


def _repeated(numbers: Iterable[int], times: Iterable[int]) -> Tensor:
    """Each number so many times, int64."""
    return torch.tensor([number for number, often in zip(numbers, times, strict=True) for _ in range(often)]).long()
