"""Next event: from the customer's vector as of just after an event, what the next event is and when it comes.

The events are drawn evenly from those of a customer that an event of a later time follows; one may be drawn twice. The
vector is made of all events up to the drawn event's time, of equal times too, for nothing tells which of those came
first. The target is the next event of a strictly later time; of several of one time, the first in the order of the
sequence.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.causal import CausalEncoder
from caspr_spark.model.features import MICROSECONDS_A_DAY
from caspr_spark.model.network import Network
from caspr_spark.model.splitmix import splitmix64
from caspr_spark.pretrain.attributes import AttributeLosses, Terms
from caspr_spark.pretrain.objectives import NEXT_EVENTS, SMALLEST_CONSTANT_LOSS, hash_of, uniform
from caspr_spark.pretrain.ranks import Ranks
from caspr_spark.pretrain.units import FIT_CHUNKS, FIT_EPOCH


class NextEvents(NamedTuple):
    """What is drawn: K events of each customer, and the next event of each."""

    as_of_BK: Tensor
    """A microsecond after the drawn event; microseconds since 1970-01-01 UTC."""
    target_BK: Tensor
    """Position of the next event."""
    is_used_BK: Tensor
    """False for customers whose events are all of one time."""


class NextEvent:
    """An objective (see `Objective`): one term an attribute of the next event, and one for the days until it.

    Attributes cost what they cost in masked recovery, over the manifest's constant losses. The gap costs the squared
    error of log1p of the days, over its variance in the training data.
    """

    def __init__(self, layout: Layout, scaling: Mapping[str, Scaling], *, seed: int, num_times: int) -> None:
        self.seed, self.num_times = seed, num_times
        self.attributes = AttributeLosses(layout, scaling)
        self.size = self.attributes.terms.size + 1
        self.terms = self._terms(gap_variance=1.0)

    def fit(self, network: Network, chunks: Callable[[], Iterator[Batch]], ranks: Ranks) -> None:
        """Measure the mean and the variance of the gaps, and let the network guess the mean of everybody at first."""
        assert network.next_event is not None
        sums_3 = torch.zeros(3, dtype=torch.float64)
        for batch in islice(chunks(), FIT_CHUNKS):
            gap_M = _log_gap(batch, self.draw(batch, epoch=FIT_EPOCH)).double()
            sums_3 += torch.stack([torch.tensor(len(gap_M)).double(), gap_M.sum(), gap_M.square().sum()])
        ranks.sum_(sums_3)
        count, total, squares = sums_3.tolist()
        mean = total / max(1.0, count)
        self.terms = self._terms(gap_variance=max(0.0, squares / max(1.0, count) - mean**2))
        network.next_event.fit(mean_gap=mean)

    def draw(self, batch: Batch, *, epoch: int) -> NextEvents:
        times_BT, is_real_BT = batch.event_times_BT, batch.is_real_BT
        newest_B1 = times_BT.gather(1, batch.num_events_B[:, None] - 1)
        num_followed_B1 = ((times_BT < newest_B1) & is_real_BT).sum(dim=1, keepdim=True)
        hash_B = hash_of(NEXT_EVENTS, self.seed, epoch, batch.customer_key_B)
        uniform_BK = uniform(splitmix64(hash_B[:, None] ^ torch.arange(self.num_times, device=batch.device)))
        drawn_BK = times_BT.gather(1, (uniform_BK * num_followed_B1).long())
        is_until_BKT = (times_BT[:, None] <= drawn_BK[:, :, None]) & is_real_BT[:, None]
        is_used_BK = (num_followed_B1 > 0).expand_as(drawn_BK)
        return NextEvents(drawn_BK + 1, is_until_BKT.sum(dim=-1), is_used_BK)

    def counts(self, batch: Batch, drawn: NextEvents) -> Tensor:
        """float64 [A]: next events in which the attribute is present; all of them have a gap."""
        of_attributes = self.attributes.counts(batch, _places(drawn))
        return torch.cat([of_attributes, drawn.is_used_BK.sum()[None].double()])

    def sums(self, network: Network, batch: Batch, drawn: NextEvents) -> Tensor:
        if not drawn.is_used_BK.any():
            return torch.zeros(self.size, device=batch.device)
        assert isinstance(network.encoder, CausalEncoder)
        assert network.next_event is not None
        embedding_ME = network.encoder.at(batch, drawn.as_of_BK)[drawn.is_used_BK]
        heads, scale = network.next_event.attributes, network.encoder.event_vectors.scale
        of_attributes = self.attributes.sums(heads, scale, embedding_ME, batch, _places(drawn))
        errors_M = network.next_event.log_gap(embedding_ME) - _log_gap(batch, drawn)
        return torch.cat([of_attributes, errors_M.square().sum()[None]])

    def weights(self, counts_A: Tensor) -> Tensor:
        return self.terms.weights(counts_A)

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        return self.terms.by_name(sums_A, counts_A)

    def _terms(self, *, gap_variance: float) -> Terms:
        """Names have a prefix, for masked recovery has terms of the same attributes."""
        of_attributes, is_taught = self.attributes.terms, gap_variance >= SMALLEST_CONSTANT_LOSS
        gap_1 = torch.tensor([gap_variance if is_taught else 1.0], dtype=torch.float64)
        return Terms(
            [f"next_event.{name}" for name in [*of_attributes.names, "gap_days"]],
            torch.cat([of_attributes.constant_A, gap_1]),
            torch.cat([of_attributes.is_taught_A, torch.tensor([is_taught])]),
        )


def _places(drawn: NextEvents) -> tuple[Tensor, Tensor]:
    """(customer_M, event_M) of the next events."""
    return drawn.is_used_BK.nonzero()[:, 0], drawn.target_BK[drawn.is_used_BK]


def _log_gap(batch: Batch, drawn: NextEvents) -> Tensor:
    """gap_M, float32: log1p of the days from the drawn events to the next."""
    gap_us_M = batch.event_times_BT[_places(drawn)] - (drawn.as_of_BK[drawn.is_used_BK] - 1)
    return (gap_us_M.double() / MICROSECONDS_A_DAY).log1p().float()
