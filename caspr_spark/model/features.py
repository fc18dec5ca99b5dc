"""From a batch to event vectors: concat(position, numericals, times, embeddings), section 5.2 of the paper.

A masked event keeps nothing but its position: it is one and the same vector for every customer, source and time, and
the gap of the event behind it is counted from the last event that is not masked.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from caspr_spark.errors import CasprError
from caspr_spark.manifest import CategoricalAttribute, Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.embedding import embedded
from caspr_spark.model.wide import is_wide
from schemas.vocabulary import FIRST_VALUE_ID, MASKED_ID, PADDING_ID

CLAMP = 5.0
"""Standard deviations beyond which a scaled numerical is cut."""
LARGEST_LOG = 60.0
"""Of a numerical, so that sums of it and their squares stay finite."""
LOG_DAYS_SCALE = 3.0
"""log1p(days) / 3 is about 1 for three weeks and 2 for a year."""
MICROSECONDS_A_DAY = 86_400_000_000.0
LARGEST_DIMENSION = 64
"""Of the embedding of a value."""
NO_TIME = torch.iinfo(torch.int64).min


def embedding_dimension(num_ids: int) -> int:
    """Section 5.1: the square root of the number of values; no more than 64, for they would outgrow all else."""
    return min(max(2, round(math.sqrt(num_ids))), LARGEST_DIMENSION)


def signed_log(raw: Tensor) -> Tensor:
    """sign(x) log1p|x|: what amounts of either sign are scaled, and foretold, as."""
    return raw.sign() * raw.abs().log1p()


class Scale(nn.Module):
    """Raw numericals -> about standard normal ones: (sign(x) log1p|x| - mean) / deviation, cut at 5 deviations."""

    def __init__(self, names: tuple[str, ...], scaling: Mapping[str, Scaling]) -> None:
        super().__init__()
        if missing := [name for name in names if name not in scaling]:
            raise CasprError(f"manifest: no scaling for {', '.join(missing)}; rebuild the sequences")
        means = [scaling[name].mean or 0.0 for name in names]
        deviations = [scaling[name].standard_deviation or 1.0 for name in names]
        self.mean_N: Tensor
        self.deviation_N: Tensor
        self.register_buffer("mean_N", torch.tensor(means, dtype=torch.float32), persistent=False)
        self.register_buffer("deviation_N", torch.tensor(deviations, dtype=torch.float32), persistent=False)
        limits = [
            [max(-LARGEST_LOG, mean - CLAMP * deviation), min(LARGEST_LOG, mean + CLAMP * deviation)]
            for mean, deviation in zip(means, deviations, strict=True)
        ]
        raw_limits = [[math.copysign(math.expm1(abs(limit)), limit) for limit in pair] for pair in limits]
        self.limits_2N: Tensor
        self.register_buffer("limits_2N", torch.tensor(raw_limits).reshape(-1, 2).T, persistent=False)

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """[..., N] with NaN where absent -> (scaled [..., N] with 0 where absent, is_present [..., N])."""
        is_present = ~raw.isnan()
        known = torch.where(is_present, raw, 0.0)
        scaled = (signed_log(known) - self.mean_N) / self.deviation_N
        return torch.where(is_present, scaled.clamp(-CLAMP, CLAMP), 0.0), is_present

    def cut(self, raw: Tensor) -> Tensor:
        """[..., N] in the raw unit, 0 where absent, cut where `forward` cuts."""
        return torch.where(raw.isnan(), 0.0, raw.clamp(self.limits_2N[0], self.limits_2N[1]))


def gap_days(batch: Batch, is_masked_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    """Days from the last event before that is not masked, 0 where there is none, and days to as_of. Both [B, T]."""
    is_visible_BT = batch.visible(is_masked_BT)
    times_BT = torch.where(is_visible_BT, batch.event_times_BT, NO_TIME)
    newest_BT = times_BT if is_masked_BT is None else times_BT.cummax(dim=1).values  # they ascend
    before_BT = torch.cat([torch.full_like(newest_BT[:, :1], NO_TIME), newest_BT[:, :-1]], dim=1)
    since_BT = torch.where(before_BT != NO_TIME, batch.event_times_BT - before_BT, 0)
    until_BT = batch.as_of_B[:, None] - batch.event_times_BT
    return since_BT.clamp(min=0).double() / MICROSECONDS_A_DAY, until_BT.clamp(min=0).double() / MICROSECONDS_A_DAY


class EventVectors(nn.Module):
    """Batch -> events_BTF. `size` is F.

    Without `knows_as_of` an event's vector has neither its position nor the time to as_of: it is the same for every
    as_of, and however many events before it are kept.
    """

    def __init__(self, layout: Layout, scaling: Mapping[str, Scaling], *, knows_as_of: bool = True) -> None:
        super().__init__()
        self.layout = layout
        self.knows_as_of = knows_as_of
        self.scale = Scale(layout.numerical, scaling)
        self.embeddings = nn.ModuleList(_embedding(attribute) for attribute in layout.categorical)
        self.set_embeddings = nn.ModuleList(
            nn.EmbeddingBag(
                one.num_ids,
                embedding_dimension(one.num_ids),
                mode="sum",
                padding_idx=PADDING_ID,
                sparse=is_wide(one.num_ids),
            )
            for one in layout.sets
        )
        self.num_waves = max(2, math.ceil(math.log2(layout.max_events)))
        position_and_times = 1 + 2 * self.num_waves + 2 if knows_as_of else 1
        embedded = sum(embedding_dimension(attribute.num_ids) for attribute in layout.categorical)
        embedded += sum(embedding_dimension(attribute.num_ids) for attribute in layout.sets)
        self.size = position_and_times + 2 * len(layout.numerical) + embedded

    def forward(self, batch: Batch, is_masked_BT: Tensor | None = None) -> Tensor:
        """events_BTF. Where `is_masked_BT` is True, the event's position is all that enters."""
        is_visible_BT = batch.visible(is_masked_BT)
        scaled_BTN, is_present_BTN = self.scale(batch.numerical_BTN)
        is_shown_BTN = is_present_BTN & is_visible_BT[:, :, None]
        days = torch.stack(gap_days(batch, is_masked_BT)[: 2 if self.knows_as_of else 1], dim=-1)
        times = torch.where(is_visible_BT[:, :, None], days.log1p().float() / LOG_DAYS_SCALE, 0.0)
        shown_BTN = torch.where(is_shown_BTN, scaled_BTN, 0.0)
        parts = [self._positions(batch)] if self.knows_as_of else []
        parts += [shown_BTN, is_shown_BTN.float(), times]
        return torch.cat([*parts, *self._embedded(batch, is_visible_BT, is_masked_BT)], dim=-1)

    def _positions(self, batch: Batch) -> Tensor:
        """i / max_events, and its waves of 2 pi, 4 pi, 8 pi, ... events: without them no head finds a neighbour."""
        num_customers, num_events = batch.event_times_BT.shape
        index_T = torch.arange(num_events, dtype=torch.float32, device=batch.device)
        angles_TW = index_T[:, None] * 0.5 ** torch.arange(self.num_waves, dtype=torch.float32, device=batch.device)
        waves = [(index_T / self.layout.max_events)[:, None], angles_TW.sin(), angles_TW.cos()]
        return torch.cat(waves, dim=-1).expand(num_customers, -1, -1)

    def _embedded(self, batch: Batch, is_visible_BT: Tensor, is_masked_BT: Tensor | None) -> list[Tensor]:
        """All attributes side by side, in one piece or several."""
        ids_BTC, sets_BTS = batch.categorical_BTC, batch.sets_BTS
        if is_masked_BT is not None:
            ids_BTC = torch.where(is_masked_BT[:, :, None], MASKED_ID, ids_BTC)
            sets_BTS = torch.where(is_visible_BT[:, :, None], sets_BTS, PADDING_ID)
        ids = [*torch.split(ids_BTC, 1, dim=-1), *set_slices(sets_BTS, self.layout)]
        modules = [*self.embeddings, *self.set_embeddings]
        return embedded(ids, [module.weight for module in modules], [module.sparse for module in modules])


class ProfileVectors(nn.Module):
    """Batch -> profile_BF: what is known of the customer apart from the events. `size` is its F; it may be 0."""

    def __init__(self, layout: Layout, scaling: Mapping[str, Scaling]) -> None:
        super().__init__()
        self.scale = Scale(layout.profile_numerical, scaling)
        self.embeddings = nn.ModuleList(_embedding(attribute) for attribute in layout.profile_categorical)
        embedded = sum(embedding_dimension(attribute.num_ids) for attribute in layout.profile_categorical)
        self.size = embedded + 2 * len(layout.profile_numerical)

    def forward(self, batch: Batch) -> Tensor:
        scaled_BQ, is_present_BQ = self.scale(batch.profile_numerical_BQ)
        embedded = [embed(batch.profile_categorical_BP[:, position]) for position, embed in enumerate(self.embeddings)]
        return torch.cat([scaled_BQ, is_present_BQ.float(), *embedded], dim=-1)


def set_slices(sets_BTS: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    """One [B, T, max_values] a set attribute, in the order of the layout."""
    return torch.split(sets_BTS, [attribute.max_values for attribute in layout.sets], dim=-1) if layout.sets else ()


def _embedding(attribute: CategoricalAttribute) -> nn.Embedding:
    num_ids = max(attribute.num_ids, FIRST_VALUE_ID)  # "unknown" and "masked" exist even where no value has an id
    dimension = embedding_dimension(attribute.num_ids)
    return nn.Embedding(num_ids, dimension, padding_idx=PADDING_ID, sparse=is_wide(num_ids))
