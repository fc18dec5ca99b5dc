"""What it costs to guess the attributes of single events wrongly; for masked recovery and the next event."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caspr_spark.errors import CasprError
from caspr_spark.manifest import Layout, Scaling
from caspr_spark.model.batch import Batch
from caspr_spark.model.decoder import Heads
from caspr_spark.model.features import Scale, set_slices
from caspr_spark.model.losses import Asked, class_loss, head_losses
from caspr_spark.model.wide import WideHead, is_wide
from caspr_spark.pretrain.objectives import SMALLEST_CONSTANT_LOSS
from caspr_spark.pretrain.ranks import Ranks
from schemas.vocabulary import PADDING_ID

Places = tuple[Tensor, ...]
"""(customer_M, event_M): where M events stand in a batch."""


@dataclass(frozen=True)
class Terms:
    """The A terms of an objective. Those that can be taught and that occur weigh the same."""

    names: list[str]
    constant_A: Tensor
    """float64: loss of the best constant guess; 1 for a term that is not taught."""
    is_taught_A: Tensor

    @property
    def size(self) -> int:
        """A."""
        return len(self.names)

    def weights(self, counts_A: Tensor) -> Tensor:
        """[A] such that (weights * sums).sum() is the loss of these counts; `counts_A` is that of all workers."""
        is_used_A = self.is_taught_A & (counts_A > 0)
        share_A = 1.0 / (counts_A.clamp(min=1) * self.constant_A * is_used_A.sum().clamp(min=1))
        return torch.where(is_used_A, share_A, 0.0)

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        """Name -> mean loss / constant loss, for terms that occurred and can be taught."""
        ratio_A = sums_A.double() / counts_A.clamp(min=1) / self.constant_A
        used = (self.is_taught_A & (counts_A > 0)).tolist()
        return {name: ratio for name, ratio, use in zip(self.names, ratio_A.tolist(), used, strict=True) if use}


class AttributeLosses:
    """One term an attribute: categorical (cross entropy), sets (binary cross entropy), numericals (squared error)."""

    def __init__(self, layout: Layout, scaling: Mapping[str, Scaling]) -> None:
        self.layout = layout
        names = [a.name for a in layout.categorical] + [a.name for a in layout.sets] + list(layout.numerical)
        if missing := [name for name in names if name not in scaling]:
            raise CasprError(f"manifest: no scaling for {', '.join(missing)}; rebuild the sequences")
        constant_A = torch.tensor([scaling[name].constant_loss for name in names], dtype=torch.float64)
        varies = [name not in layout.numerical or bool(scaling[name].standard_deviation) for name in names]
        is_taught_A = (constant_A >= SMALLEST_CONSTANT_LOSS) & torch.tensor(varies, dtype=torch.bool)
        self.terms = Terms(names, torch.where(is_taught_A, constant_A, 1.0), is_taught_A)

    def counts(self, batch: Batch, places: Places) -> Tensor:
        """float64 [A]: events at these places in which the attribute is present."""
        presence = [(batch.categorical_BTC[places] != PADDING_ID).sum(dim=0)]
        presence += [
            (ids_BTS[places] != PADDING_ID).any(dim=-1).sum()[None]
            for ids_BTS in set_slices(batch.sets_BTS, self.layout)
        ]
        presence += [(~batch.numerical_BTN[places].isnan()).sum(dim=0)]
        return torch.cat(presence).double()

    def sums(self, heads: Heads, scale: Scale, read_MX: Tensor, batch: Batch, places: Places) -> Tensor:
        """float32 [A]: summed loss of what `heads` make of `read_MX`, over events in which the attribute is present."""
        losses = []
        ids_MC = batch.categorical_BTC[places]
        for position, head in enumerate(heads.categorical):
            ids_M = ids_MC[:, position]
            if isinstance(head, WideHead):
                losses.append(head.cross_entropy(read_MX, ids_M))
            else:
                assert isinstance(head, nn.Linear)
                losses.append(class_loss(head, read_MX, ids_M))
        slices = set_slices(batch.sets_BTS, self.layout)
        for ids_BTS, head in zip(slices, heads.sets, strict=True):
            ids_MS = ids_BTS[places]
            if isinstance(head, WideHead):
                losses.append(head.binary_cross_entropy(read_MX, ids_MS))
            else:
                assert isinstance(head, nn.Linear)
                losses.append(_set_loss(head, read_MX, ids_MS))
        if heads.numerical is not None:
            scaled_MN, is_present_MN = scale(batch.numerical_BTN[places])
            squared_MN = (heads.numerical(read_MX) - scaled_MN).square()
            losses.extend(torch.where(is_present_MN, squared_MN, 0.0).sum(dim=0).unbind())
        return torch.stack(losses) if losses else read_MX.new_zeros(0)


def fit_wide_heads(
    all_heads: Sequence[Heads], layout: Layout, chunks: Callable[[], Iterator[Batch]], ranks: Ranks
) -> None:
    """Tell the heads of wide attributes how often each value is in the training data."""
    sizes = [one.num_ids for one in layout.categorical] + [one.num_ids for one in layout.sets]
    counts = {place: torch.zeros(size, dtype=torch.float64) for place, size in enumerate(sizes) if is_wide(size)}
    if not all_heads or not counts:
        return
    for batch in chunks():
        columns = [*batch.categorical_BTC.unbind(dim=2), *set_slices(batch.sets_BTS, layout)]
        for place, counts_V in counts.items():
            ids = columns[place].flatten()
            counts_V.index_add_(0, ids, torch.ones(len(ids), dtype=torch.float64))
    for place, counts_V in counts.items():
        ranks.sum_(counts_V)
        for heads in all_heads:
            head = [*heads.categorical, *heads.sets][place]
            assert isinstance(head, WideHead)
            head.fit(counts_V)


def _set_loss(head: nn.Linear, read_MX: Tensor, ids_MS: Tensor) -> Tensor:
    """Binary cross-entropy, summed over the values of the set, for events whose set is not empty."""
    is_in_MV = torch.zeros(len(ids_MS), head.out_features, dtype=torch.bool, device=ids_MS.device)
    is_in_MV.scatter_(1, ids_MS, True)
    is_present_M = (ids_MS != PADDING_ID).any(dim=-1)
    return head_losses(head, read_MX, [Asked(is_in_MV, is_present_M)])[1][PADDING_ID + 1 :].sum()
