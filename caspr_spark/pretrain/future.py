"""Dense future: from many as-of times inside the history, what the customer does next within several horizons.

A vector is made of the events strictly before its as-of time; the targets are those from then on, and the values that
came last: what nothing is foretold from yet may be of use to somebody, and must not be lost. As-of times are drawn
evenly over the history, but for its beginning and for the last middle horizon; a horizon that ends after the training
data is not asked for. Every term is divided by what the best constant guess of it costs, measured on the training data.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.config import ModelSection
from caspr_spark.errors import CasprError
from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.causal import CausalEncoder
from caspr_spark.model.features import MICROSECONDS_A_DAY, Scale, signed_log
from caspr_spark.model.future import HORIZONS, MIDDLE, FutureHeads, Guesses, ValueGuesses
from caspr_spark.model.losses import Asked
from caspr_spark.model.network import Network
from caspr_spark.model.splitmix import splitmix64
from caspr_spark.model.values import Amounts, Sources, Values
from caspr_spark.pretrain.objectives import AS_OF_TIMES, SMALLEST_CONSTANT_LOSS, hash_of, uniform
from caspr_spark.pretrain.ranks import Ranks
from caspr_spark.pretrain.units import FIT_CHUNKS, FIT_EPOCH, Units

FIRST_TIME = 3 / 13
"""As-of times start so many longest horizons after the first event of all: 21 days where that is 91."""
RAREST = 1e-4
"""Shares nearer to 0 or 1 than this are taken for this where log odds are started."""
PARTS = ("any", "count", "amounts_log", "amounts_linear", "next_values", "new_values", "recent_values")
PART_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0)
"""Values weigh as much as all else and more: they are many, each is rare, and little is won over a constant guess."""


class Times(NamedTuple):
    """The as-of times of a draw."""

    as_of_BK: Tensor
    """Microseconds since 1970-01-01 UTC."""
    is_used_BK: Tensor
    """Whether the customer has an event before."""
    is_known_BKH: Tensor
    """Whether, besides, the horizon ends within the training data."""


class Future(NamedTuple):
    """What happens from each as-of time on."""

    counts_BKSH: Tensor
    amounts_BKNH: Tensor
    """Sums of the N amounts, in raw units; a single amount is cut as the model cuts it."""
    has_next_BKV: Tensor
    """Whether the value occurs within the middle horizon."""
    was_recent_BKV: Tensor
    """Whether it occurred within as long before."""
    is_old_BKV: Tensor
    """Whether the customer had it before; also at places that are no value."""


class DenseFuture:
    """An objective (see `Objective`) of seven parts, each with its weight.

    Its terms: any and count, one a source and horizon each; the sums of an amount, as logarithm and linear, one a
    horizon each; the values that come next, those of them that are new to the customer, and those that came last, one
    an attribute each.
    """

    def __init__(
        self,
        model: ModelSection,
        layout: Layout,
        scaling: Mapping[str, Scaling],
        *,
        as_of: datetime,
        seed: int,
        num_times: int,
    ) -> None:
        self.scale = Scale(layout.numerical, scaling)
        self.end_us = round(as_of.timestamp() * 1_000_000)
        self.seed, self.num_times = seed, num_times
        self.sources, self.values = Sources(layout), Values(layout)
        self.amounts = Amounts(model, layout)
        of_sources, of_amounts = self.sources.size * len(HORIZONS), self.amounts.size * len(HORIZONS)
        self.sizes = [of_sources, of_sources, of_amounts, of_amounts, *[len(self.values.sizes)] * 3]
        self.size = sum(self.sizes)
        self.horizons_us_H = torch.zeros(len(HORIZONS), dtype=torch.int64)
        self.first_us = self.end_us
        self.deviation_NH = torch.ones(self.amounts.size, len(HORIZONS))
        self.constant_A = torch.ones(self.size, dtype=torch.float64)
        self.is_taught_A = torch.ones(self.size, dtype=torch.bool)
        self.emphasis_A = torch.ones(self.size, dtype=torch.float64)
        """Of a term among those of its part: of values the root of what a constant guess of the attribute costs, so
        that one of a thousand values weighs more than one of ten, but not a hundred times as much."""

    def fit(self, network: Network, chunks: Callable[[], Iterator[Batch]], ranks: Ranks, units: Units) -> None:
        """Measure horizons, deviations, first guesses and constant losses, and give the network what it needs of them.

        Raises CasprError, on all ranks alike, where the history is too short to look ahead in it.
        """
        assert network.future is not None
        days, longest = units.history_days, units.longest_days
        self.horizons_us_H = (longest * torch.tensor(HORIZONS, dtype=torch.float64) * MICROSECONDS_A_DAY).long()
        self.first_us = units.earliest_us + round(longest * FIRST_TIME * MICROSECONDS_A_DAY)
        if self.first_us >= self.end_us - int(self.horizons_us_H[MIDDLE]):
            raise CasprError(
                f"pretrain: the training data spans {days:.1f} days, too few to look {longest:.1f} days ahead in it; "
                "set pretrain.longest_horizon_days to a third of them, or take another objective (model.objectives)"
            )
        start = self._first_guesses(chunks, ranks)
        network.future.fit(longest_days=longest, deviation_NH=self.deviation_NH, start=start)
        self._measure_constants(network.future, chunks, ranks)

    def draw(self, batch: Batch, *, epoch: int) -> Times:
        hash_B = hash_of(AS_OF_TIMES, self.seed, epoch, batch.customer_key_B)
        uniform_BK = uniform(splitmix64(hash_B[:, None] ^ torch.arange(self.num_times, device=batch.device)))
        last_us = self.end_us - int(self.horizons_us_H[MIDDLE])
        as_of_BK = self.first_us + (uniform_BK * (last_us - self.first_us)).long()
        is_used_BK = batch.event_times_BT[:, :1] < as_of_BK
        ends_in_time_BKH = as_of_BK[:, :, None] + self.horizons_us_H.to(batch.device) <= self.end_us
        return Times(as_of_BK, is_used_BK, is_used_BK[:, :, None] & ends_in_time_BKH)

    def counts(self, batch: Batch, drawn: Times) -> Tensor:
        known_H, used = drawn.is_known_BKH.sum(dim=(0, 1)), drawn.is_used_BK.sum()[None]
        rows = sum(self.sizes[:4]) // len(HORIZONS)
        return torch.cat([known_H.repeat(rows), used.repeat(sum(self.sizes[4:]))]).double()

    def sums(self, network: Network, batch: Batch, drawn: Times) -> Tensor:
        if not drawn.is_used_BK.any():
            return torch.zeros(self.size, device=batch.device)
        assert isinstance(network.encoder, CausalEncoder)
        assert network.future is not None
        return self._losses(network.future, network.encoder.at(batch, drawn.as_of_BK), self.future(batch, drawn), drawn)

    def weights(self, counts_A: Tensor) -> Tensor:
        return torch.where(counts_A > 0, self._of_loss(counts_A) / (counts_A.clamp(min=1) * self.constant_A), 0.0)

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        ratio_A = sums_A.double() / counts_A.clamp(min=1) / self.constant_A
        of_loss_A = self._of_loss(counts_A)
        parts = zip(PARTS, torch.split(ratio_A, self.sizes), torch.split(of_loss_A, self.sizes), strict=True)
        return {name: float((ratios * shares).sum() / shares.sum()) for name, ratios, shares in parts if shares.any()}

    def _of_loss(self, counts_A: Tensor) -> Tensor:
        """float64 [A]: what share of the loss each term is, 0 where it is not used; together 1, unless none is."""
        emphasis_A = torch.where(self.is_taught_A & (counts_A > 0), self.emphasis_A, 0.0)
        of_part_P = torch.stack([part.sum() for part in torch.split(emphasis_A, self.sizes)])
        share_P = torch.tensor(PART_WEIGHTS, dtype=torch.float64) * (of_part_P > 0)
        of_emphasis_P = share_P / torch.where(of_part_P > 0, of_part_P, 1.0) / share_P.sum().clamp(min=1)
        return emphasis_A * of_emphasis_P.repeat_interleave(torch.tensor(self.sizes))

    def future(self, batch: Batch, drawn: Times) -> Future:
        """The targets of a draw."""
        (num_customers, num_times), num_horizons = drawn.as_of_BK.shape, len(HORIZONS)
        after_BKT = batch.event_times_BT[:, None, :] - drawn.as_of_BK[:, :, None]
        is_next_BKT = (after_BKT >= 0) & batch.is_real_BT[:, None]
        horizons_us_H = self.horizons_us_H.to(batch.device)
        is_within_BKHT = is_next_BKT[:, :, None] & (after_BKT[:, :, None] < horizons_us_H[:, None])

        def summed(of_events_BTX: Tensor) -> Tensor:
            sums_BJX = torch.bmm(is_within_BKHT.flatten(1, 2).float(), of_events_BTX)
            return sums_BJX.view(num_customers, num_times, num_horizons, -1).transpose(2, 3)

        before_BKT = (after_BKT < 0) & batch.is_real_BT[:, None]
        is_recent_BKT = before_BKT & (after_BKT >= -horizons_us_H[MIDDLE])
        is_old_BKV = self.values.held(batch, before_BKT)
        is_old_BKV[:, :, ~self.values.is_value_V.to(batch.device)] = True
        return Future(
            summed(self.sources.one_hot(batch)),
            summed(self.scale.to(batch.device).cut(batch.numerical_BTN)[..., self.amounts.positions]),
            self.values.held(batch, is_within_BKHT[:, :, MIDDLE]),
            self.values.held(batch, is_recent_BKT),
            is_old_BKV,
        )

    def _losses(self, heads: FutureHeads, embedding_BKE: Tensor, future: Future, drawn: Times) -> Tensor:
        """float32 [A]: summed over customers and times."""
        next_RV, recent_RV, old_RV = (
            part.flatten(0, 1) for part in (future.has_next_BKV, future.was_recent_BKV, future.is_old_BKV)
        )
        used_R = drawn.is_used_BK.flatten()
        asked = [Asked(next_RV, used_R), Asked(next_RV, used_R, old_RV), Asked(recent_RV, used_R)]
        guesses, losses_3V = heads.with_losses(embedding_BKE, asked)
        known_BK1H = drawn.is_known_BKH[:, :, None].float()
        happens_BKSH, counts_BKSH = (future.counts_BKSH > 0).float(), future.counts_BKSH.log1p()
        scaled_BKNH = future.amounts_BKNH / self.deviation_NH.to(future.amounts_BKNH.device)
        of_horizons = [
            functional.binary_cross_entropy_with_logits(guesses.any_BKSH, happens_BKSH, reduction="none"),
            (guesses.count_BKSH - counts_BKSH).square(),
            (guesses.log_BKNH - signed_log(future.amounts_BKNH)).square(),
            2 * functional.huber_loss(guesses.linear_BKNH, scaled_BKNH, reduction="none"),
        ]
        sums = [(losses * known_BK1H).sum(dim=(0, 1)).flatten() for losses in of_horizons]
        of_attributes = losses_3V.new_zeros(len(asked), len(self.values.sizes))
        attribute_V = self.values.attribute_V.to(losses_3V.device)
        sums.append(of_attributes.index_add(1, attribute_V, losses_3V).flatten())
        return torch.cat(sums)

    def _first_guesses(self, chunks: Callable[[], Iterator[Batch]], ranks: Ranks) -> tuple[Guesses, ValueGuesses]:
        """The training data's means, as the heads write them; sets the deviations of the sums on the way."""
        total: list[Tensor] = []
        for batch in islice(chunks(), FIT_CHUNKS):
            drawn = self.draw(batch, epoch=FIT_EPOCH)
            future = self.future(batch, drawn)
            known_BK1H, used_BK1 = drawn.is_known_BKH[:, :, None].double(), drawn.is_used_BK[:, :, None].double()
            new_BKV = used_BK1 * ~future.is_old_BKV
            amounts_BKNH = future.amounts_BKNH.double()
            of_chunk = [
                known_BK1H.sum(dim=(0, 1, 2)),
                ((future.counts_BKSH > 0) * known_BK1H).sum(dim=(0, 1)),
                (future.counts_BKSH.log1p() * known_BK1H).sum(dim=(0, 1)),
                (signed_log(amounts_BKNH) * known_BK1H).sum(dim=(0, 1)),
                (amounts_BKNH * known_BK1H).sum(dim=(0, 1)),
                (amounts_BKNH.square() * known_BK1H).sum(dim=(0, 1)),
                used_BK1.sum()[None],
                (future.has_next_BKV * used_BK1).sum(dim=(0, 1)),
                new_BKV.sum(dim=(0, 1)),
                (future.has_next_BKV * new_BKV).sum(dim=(0, 1)),
                (future.was_recent_BKV * used_BK1).sum(dim=(0, 1)),
            ]
            total = [one + other for one, other in zip(total, of_chunk, strict=True)] if total else of_chunk
        for part in total:
            ranks.sum_(part)
        known_H, any_SH, count_SH, log_NH, linear_NH, square_NH, used, next_V, new_V, has_new_V, recent_V = total
        known_H, used, new_V = known_H.clamp(min=1), used.clamp(min=1), new_V.clamp(min=1)
        mean_NH = linear_NH / known_H
        deviation_NH = (square_NH / known_H - mean_NH.square()).clamp(min=0).sqrt()
        self.deviation_NH = torch.where(deviation_NH > 0, deviation_NH, 1.0).float()
        of_horizons = Guesses(
            _log_odds(any_SH / known_H),
            (count_SH / known_H).float(),
            (log_NH / known_H).float(),
            mean_NH.float() / self.deviation_NH,
        )
        of_values = (_log_odds(next_V / used), _log_odds(has_new_V / new_V), _log_odds(recent_V / used))
        return of_horizons, ValueGuesses(*of_values)

    @torch.no_grad()
    def _measure_constants(self, heads: FutureHeads, chunks: Callable[[], Iterator[Batch]], ranks: Ranks) -> None:
        """`heads` guess the same of everybody of whom they read nothing: what they were told to guess at first."""
        sums_A, counts_A = torch.zeros(self.size, dtype=torch.float64), torch.zeros(self.size, dtype=torch.float64)
        for batch in islice(chunks(), FIT_CHUNKS):
            drawn = self.draw(batch, epoch=FIT_EPOCH)
            nothing_BKE = torch.zeros(*drawn.as_of_BK.shape, heads.linear.in_features, device=batch.device)
            sums_A += self._losses(heads, nothing_BKE, self.future(batch, drawn), drawn).double()
            counts_A += self.counts(batch, drawn)
        ranks.sum_(sums_A)
        ranks.sum_(counts_A)
        constant_A = sums_A / counts_A.clamp(min=1)
        self.is_taught_A = constant_A >= SMALLEST_CONSTANT_LOSS
        self.constant_A = torch.where(self.is_taught_A, constant_A, 1.0)
        of_values = slice(sum(self.sizes[:4]), None)
        self.emphasis_A[of_values] = self.constant_A[of_values].sqrt()


def _log_odds(shares: Tensor) -> Tensor:
    return torch.logit(shares.clamp(RAREST, 1 - RAREST)).float()
