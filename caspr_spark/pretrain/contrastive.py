"""Contrastive: two slices of one customer's events have vectors that are more alike than those of different customers.

CoLES (Babaev et al., "CoLES: Contrastive Learning for Event Sequences with Self-Supervision", SIGMOD 2022), section 3:
a slice is a random run of consecutive events (algorithm 1), encoded by itself. Unlike there, the loss is a softmax and
not a margin (see `Contrastive`), and a slice is at most half of the history, so that two of them have few events in
common. The profile is hidden: it is the same in both slices, and would tell the customer without any event.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.model.batch import Batch
from caspr_spark.model.features import signed_log
from caspr_spark.model.network import Network
from caspr_spark.model.splitmix import splitmix64
from caspr_spark.pretrain.attributes import Terms
from caspr_spark.pretrain.objectives import SLICES, hash_of, uniform
from schemas.vocabulary import PADDING_ID

SHORTEST_SLICE = 4
"""Events. A customer with fewer than twice as many takes no part."""
TEMPERATURE = 0.1
"""Cosines are divided by it."""


class Slices(NamedTuple):
    """Two slices of each customer, in events."""

    start_B2: Tensor
    length_B2: Tensor
    is_used_B: Tensor
    """Whether the customer has events enough. Where False, the slices mean nothing."""


class Contrastive:
    """An objective (see `Objective`) of one term: NT-Xent (Chen et al., "SimCLR", ICML 2020, section 2.1).

    Of all other slices of the batch, which one is of the same customer? The answer is a softmax over cosines of what a
    linear projection makes of the vectors' logarithms: amounts, which no training touches, would outweigh the rest. Its
    cross entropy is divided by the logarithm of the number of candidates: 1.0 is vectors that are all alike. The
    paper's loss, with a margin and the hardest negatives, has no such value of knowing nothing, and which pairs count
    would depend on the weights; in a softmax the hardest negatives weigh most, too.

    The negatives are the customers that go through the network together: a worker's, of similar length, at most
    `chunks.WHOLE_CHUNK`. So this loss, unlike the others', depends on how customers are batched, and two workers do
    not train exactly what one does. A vector does not: no slice knows of another before the loss.
    """

    size = 1

    def __init__(self, *, seed: int) -> None:
        self.seed = seed
        self.terms = Terms(["contrastive"], torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.bool))

    def draw(self, batch: Batch, *, epoch: int) -> Slices:
        """Lengths are drawn evenly from SHORTEST_SLICE to half of the events, then starts from those that are left."""
        hash_B = hash_of(SLICES, self.seed, epoch, batch.customer_key_B)
        uniform_B4 = uniform(splitmix64(hash_B[:, None] ^ torch.arange(4, device=batch.device)))
        num_events_B1 = batch.num_events_B[:, None]
        is_used_B1 = num_events_B1 >= 2 * SHORTEST_SLICE
        num_lengths_B1 = num_events_B1 // 2 - SHORTEST_SLICE + 1
        length_B2 = SHORTEST_SLICE + (uniform_B4[:, :2] * num_lengths_B1).long()
        start_B2 = (uniform_B4[:, 2:] * (num_events_B1 - length_B2 + 1)).long()
        return Slices(start_B2, length_B2, is_used_B1[:, 0])

    def counts(self, batch: Batch, drawn: Slices) -> Tensor:
        """float64 [1]: slices; none where a customer is alone, for there is nobody to be told from."""
        num_customers = int(drawn.is_used_B.sum())
        num_slices = 2 * num_customers if num_customers > 1 else 0
        return torch.tensor([num_slices], dtype=torch.float64, device=batch.device)

    def sums(self, network: Network, batch: Batch, drawn: Slices) -> Tensor:
        """float32 [1]: summed over slices, the cross entropy / the logarithm of the number of candidates."""
        num_slices = int(self.counts(batch, drawn))
        if not num_slices:
            return torch.zeros(self.size, device=batch.device)
        first, second = sliced(batch, drawn, 0), sliced(batch, drawn, 1)
        assert network.contrast is not None
        vectors_BE = torch.cat([network.encoder(one).embedding_BE for one in (first, second)])
        vectors_BD = functional.normalize(network.contrast(signed_log(vectors_BE)), dim=-1)
        itself_BB = torch.eye(num_slices, dtype=torch.bool, device=batch.device)
        log_odds_BB = (vectors_BD @ vectors_BD.T / TEMPERATURE).masked_fill(itself_BB, -torch.inf)
        other_B = torch.arange(num_slices, device=batch.device).roll(num_slices // 2)
        entropy = functional.cross_entropy(log_odds_BB, other_B, reduction="sum")
        return entropy[None] / math.log(num_slices - 1)

    def weights(self, counts_A: Tensor) -> Tensor:
        return self.terms.weights(counts_A)

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        return self.terms.by_name(sums_A, counts_A)


def sliced(batch: Batch, drawn: Slices, number: int) -> Batch:
    """Slice 0 or 1 of the customers that take part, as if they had no other events and no profile.

    As of a microsecond after the slice's last event.
    """
    used_B = drawn.is_used_B.nonzero()[:, 0]
    start_B1, length_B1 = drawn.start_B2[used_B, number, None], drawn.length_B2[used_B, number, None]
    order_T = torch.arange(int(length_B1.max()), device=batch.device)
    is_real_BT = order_T < length_B1
    places_BT = torch.where(is_real_BT, start_B1 + order_T, 0)

    def events(of_events_BTX: Tensor, empty: float) -> Tensor:
        return torch.where(is_real_BT[:, :, None], of_events_BTX[used_B[:, None], places_BT], empty)

    times_BT = torch.where(is_real_BT, batch.event_times_BT[used_B[:, None], places_BT], 0)
    return replace(
        batch,
        customer_key_B=batch.customer_key_B[used_B],
        num_events_B=length_B1[:, 0],
        as_of_B=times_BT.gather(1, length_B1 - 1)[:, 0] + 1,
        event_times_BT=times_BT,
        categorical_BTC=events(batch.categorical_BTC, PADDING_ID),
        sets_BTS=events(batch.sets_BTS, PADDING_ID),
        numerical_BTN=events(batch.numerical_BTN, torch.nan),
        profile_categorical_BP=torch.full_like(batch.profile_categorical_BP[used_B], PADDING_ID),
        profile_numerical_BQ=torch.full_like(batch.profile_numerical_BQ[used_B], torch.nan),
        is_real_BT=is_real_BT,
    )
