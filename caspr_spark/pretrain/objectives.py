"""What an objective is, and masked entity recovery (sections 5.2 and 5.3 of the paper).

Every random choice is a hash of (seed, epoch, customer, position), so that it does not depend on the batch, on the
order of the customers or on how many workers share them.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.errors import CasprError
from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.features import set_slices
from caspr_spark.model.network import Network
from schemas.vocabulary import PADDING_ID

GOLDEN = 0x9E3779B97F4A7C15
MASKING, MEMORY, AS_OF_TIMES = 1, 2, 3
"""What a hash is drawn for."""
SMALLEST_CONSTANT_LOSS = 1e-3
"""An attribute that a constant guesses better than this has nothing to teach, and would be divided by almost 0."""


class Objective(Protocol):
    """A loss that is a sum over A terms, each (summed loss / count / loss of the best constant guess).

    1.0 is therefore as good as a constant. Sums and counts are kept apart, so that workers can add theirs up.
    """

    size: int
    """A."""

    def draw(self, batch: Batch, *, epoch: int) -> Any:
        """The random choices of this epoch for these customers."""

    def counts(self, batch: Batch, drawn: Any) -> Tensor:
        """float64 [A]: what there is to guess."""

    def sums(self, network: Any, batch: Batch, drawn: Any) -> Tensor:
        """float32 [A]: the summed loss of all guesses of the network that the objective is for."""

    def weights(self, counts_A: Tensor) -> Tensor:
        """[A] such that (weights * sums).sum() is the loss of these counts; `counts_A` is that of all workers."""

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        """What the user is told: part of the objective -> loss / constant loss."""


def _signed(number: int) -> int:
    """An unsigned 64-bit number as torch's int64 holds it."""
    return (number & (2**64 - 1)) - (2**64 if number & 2**63 else 0)


def splitmix64(state: Tensor) -> Tensor:
    """The splitmix64 generator's output for an int64 state, with the wrapping multiplication of 64-bit integers."""

    def shifted(bits: Tensor, by: int) -> Tensor:
        return (bits >> by) & ((1 << (64 - by)) - 1)  # torch shifts the sign in

    mixed = state + _signed(GOLDEN)
    mixed = (mixed ^ shifted(mixed, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ shifted(mixed, 31)


def hash_of(purpose: int, seed: int, epoch: int, customer_key_B: Tensor) -> Tensor:
    """int64 [B], as good as random, the same wherever and whenever it is computed."""
    mixed = splitmix64(torch.tensor(purpose))
    for part in (torch.tensor(_signed(seed)), torch.tensor(epoch), customer_key_B):
        mixed = splitmix64(mixed ^ part)
    return mixed


def masked_events(batch: Batch, *, seed: int, epoch: int, mask_share: float) -> Tensor:
    """is_masked_BT: round(mask_share * n) of a customer's n events, at least 1 and at most n - 1; none where n is 1."""
    num_events = batch.event_times_BT.shape[1]
    hash_BT = splitmix64(hash_of(MASKING, seed, epoch, batch.customer_key_B)[:, None] ^ torch.arange(num_events))
    hash_BT = torch.where(batch.is_real_BT, hash_BT, torch.iinfo(torch.int64).max)
    rank_BT = hash_BT.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    wanted_B = (mask_share * batch.num_events_B.double() + 0.5).floor().long()
    num_masked_B = torch.minimum(wanted_B.clamp(min=1), batch.num_events_B - 1)
    return (rank_BT < num_masked_B[:, None]) & batch.is_real_BT


def sees_events(batch: Batch, *, seed: int, epoch: int, memory_dropout: float) -> Tensor:
    """True [B] for customers whose decoder sees the single events; False for a share of `memory_dropout`."""
    return uniform(hash_of(MEMORY, seed, epoch, batch.customer_key_B)) >= memory_dropout


def uniform(hashes: Tensor) -> Tensor:
    """int64 hashes as float64 from 0 to below 1."""
    return ((hashes >> 11) & (2**53 - 1)).double() / 2**53


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
        self.layout = layout
        self.seed, self.mask_share, self.memory_dropout = seed, mask_share, memory_dropout
        names = [a.name for a in layout.categorical] + [a.name for a in layout.sets] + list(layout.numerical)
        if missing := [name for name in names if name not in scaling]:
            raise CasprError(f"manifest: no scaling for {', '.join(missing)}; rebuild the sequences")
        self.names = names
        """Attribute names in the order of A: categorical, sets, numerical."""
        constant_A = torch.tensor([scaling[name].constant_loss for name in names], dtype=torch.float64)
        varies = [name not in layout.numerical or bool(scaling[name].standard_deviation) for name in names]
        self.is_taught_A = (constant_A >= SMALLEST_CONSTANT_LOSS) & torch.tensor(varies, dtype=torch.bool)
        self.constant_A = torch.where(self.is_taught_A, constant_A, 1.0)
        self.size = len(names)

    def draw(self, batch: Batch, *, epoch: int) -> tuple[Tensor, Tensor]:
        """is_masked_BT and sees_events_B."""
        chance = {"seed": self.seed, "epoch": epoch}
        is_masked_BT = masked_events(batch, mask_share=self.mask_share, **chance)
        return is_masked_BT, sees_events(batch, memory_dropout=self.memory_dropout, **chance)

    def counts(self, batch: Batch, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """float64 [A]: masked events in which the attribute is present."""
        is_masked_BT, _ = drawn
        presence = [(batch.categorical_BTC[is_masked_BT] != PADDING_ID).sum(dim=0)]
        presence += [
            (ids_BTS[is_masked_BT] != PADDING_ID).any(dim=-1).sum()[None]
            for ids_BTS in set_slices(batch.sets_BTS, self.layout)
        ]
        presence += [(~batch.numerical_BTN[is_masked_BT].isnan()).sum(dim=0)]
        return torch.cat(presence).double()

    def sums(self, network: Network, batch: Batch, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """float32 [A]: summed loss of the masked events in which the attribute is present. Logits exist only there."""
        is_masked_BT, sees_events_B = drawn
        if not is_masked_BT.any():
            return torch.zeros(self.size)
        assert network.heads is not None
        decoded_MD = network(batch, is_masked_BT, sees_events_B)
        losses = []
        ids_MC = batch.categorical_BTC[is_masked_BT]
        for position, head in enumerate(network.heads.categorical):
            losses.append(
                functional.cross_entropy(
                    head(decoded_MD), ids_MC[:, position], ignore_index=PADDING_ID, reduction="sum"
                )
            )
        slices = set_slices(batch.sets_BTS, self.layout)
        for ids_BTS, head in zip(slices, network.heads.sets, strict=True):
            losses.append(_set_loss(head(decoded_MD), ids_BTS[is_masked_BT]))
        if network.heads.numerical is not None:
            scaled_MN, is_present_MN = network.encoder.event_vectors.scale(batch.numerical_BTN[is_masked_BT])
            squared_MN = (network.heads.numerical(decoded_MD) - scaled_MN).square()
            losses.extend(torch.where(is_present_MN, squared_MN, 0.0).sum(dim=0).unbind())
        return torch.stack(losses)

    def weights(self, counts_A: Tensor) -> Tensor:
        """[A] such that (weights * sums).sum() is the loss of these counts; `counts_A` is that of all workers."""
        is_used_A = self.is_taught_A & (counts_A > 0)
        share_A = 1.0 / (counts_A.clamp(min=1) * self.constant_A * is_used_A.sum().clamp(min=1))
        return torch.where(is_used_A, share_A, 0.0)

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        """Attribute -> mean loss / constant loss, for attributes that were seen and can be taught."""
        ratio_A = sums_A.double() / counts_A.clamp(min=1) / self.constant_A
        used = (self.is_taught_A & (counts_A > 0)).tolist()
        return {name: ratio for name, ratio, use in zip(self.names, ratio_A.tolist(), used, strict=True) if use}


def _set_loss(logits_MV: Tensor, ids_MS: Tensor) -> Tensor:
    """Binary cross-entropy, summed over the values of the set, for events whose set is not empty."""
    target_MV = torch.zeros_like(logits_MV).scatter_(1, ids_MS, 1.0)
    losses_MV = functional.binary_cross_entropy_with_logits(logits_MV, target_MV, reduction="none")
    is_present_M = (ids_MS != PADDING_ID).any(dim=-1)
    losses_M = losses_MV[:, PADDING_ID + 1 :].sum(dim=-1)
    return torch.where(is_present_M, losses_M, 0.0).sum()
