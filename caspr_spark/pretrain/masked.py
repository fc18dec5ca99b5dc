"""Masked entity recovery, the objective of the CASPR paper (sections 5.2 and 5.3)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.network import Network
from caspr_spark.model.splitmix import splitmix64
from caspr_spark.pretrain.attributes import AttributeLosses
from caspr_spark.pretrain.objectives import MASKING, MEMORY, hash_of, uniform


def masked_events(batch: Batch, *, seed: int, epoch: int, mask_share: float) -> Tensor:
    """is_masked_BT: round(mask_share * n) of a customer's n events, at least 1 and at most n - 1; none where n is 1."""
    num_events = batch.event_times_BT.shape[1]
    hash_B1 = hash_of(MASKING, seed, epoch, batch.customer_key_B)[:, None]
    hash_BT = splitmix64(hash_B1 ^ torch.arange(num_events, device=batch.device))
    hash_BT = torch.where(batch.is_real_BT, hash_BT, torch.iinfo(torch.int64).max)
    rank_BT = hash_BT.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    wanted_B = (mask_share * batch.num_events_B.double() + 0.5).floor().long()
    num_masked_B = torch.minimum(wanted_B.clamp(min=1), batch.num_events_B - 1)
    return (rank_BT < num_masked_B[:, None]) & batch.is_real_BT


def sees_events(batch: Batch, *, seed: int, epoch: int, memory_dropout: float) -> Tensor:
    """True [B] for customers whose decoder sees the single events; False for a share of `memory_dropout`."""
    return uniform(hash_of(MEMORY, seed, epoch, batch.customer_key_B)) >= memory_dropout


class MaskedRecovery:
    """The loss: for every attribute its mean over masked events where it is present / the best constant guess's."""

    def __init__(
        self,
        layout: Layout,
        scaling: Mapping[str, Scaling],
        *,
        seed: int,
        mask_share: float,
        memory_dropout: float,
    ) -> None:
        self.seed, self.mask_share, self.memory_dropout = seed, mask_share, memory_dropout
        self.attributes = AttributeLosses(layout, scaling)
        self.terms = self.attributes.terms
        self.size = self.terms.size

    def draw(self, batch: Batch, *, epoch: int) -> tuple[Tensor, Tensor]:
        """is_masked_BT and sees_events_B."""
        chance = {"seed": self.seed, "epoch": epoch}
        is_masked_BT = masked_events(batch, mask_share=self.mask_share, **chance)
        return is_masked_BT, sees_events(batch, memory_dropout=self.memory_dropout, **chance)

    def counts(self, batch: Batch, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """float64 [A]: masked events in which the attribute is present."""
        is_masked_BT, _ = drawn
        return self.attributes.counts(batch, is_masked_BT.nonzero(as_tuple=True))

    def sums(self, network: Network, batch: Batch, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """float32 [A]: summed loss of the masked events in which the attribute is present. Logits exist only there."""
        is_masked_BT, sees_events_B = drawn
        if not is_masked_BT.any():
            return torch.zeros(self.size, device=batch.device)
        assert network.heads is not None
        decoded_MD = network(batch, is_masked_BT, sees_events_B)
        scale = network.encoder.event_vectors.scale
        return self.attributes.sums(network.heads, scale, decoded_MD, batch, is_masked_BT.nonzero(as_tuple=True))

    def weights(self, counts_A: Tensor) -> Tensor:
        return self.terms.weights(counts_A)

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        return self.terms.by_name(sums_A, counts_A)
