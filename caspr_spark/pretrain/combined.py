"""The objectives of a job as one: their terms side by side, each objective with its weight."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from caspr_spark.manifest import SequenceManifest
from caspr_spark.model.batch import Batch
from caspr_spark.model.causal import CausalEncoder
from caspr_spark.model.features import Scale
from caspr_spark.model.network import Network
from caspr_spark.pretrain.attributes import fit_wide_heads
from caspr_spark.pretrain.contrastive import Contrastive
from caspr_spark.pretrain.future import DenseFuture
from caspr_spark.pretrain.job import Job
from caspr_spark.pretrain.masked import MaskedRecovery
from caspr_spark.pretrain.next_event import NextEvent
from caspr_spark.pretrain.objectives import Objective
from caspr_spark.pretrain.ranks import Ranks
from caspr_spark.pretrain.units import units_of


class Combined:
    """An objective of its own (see `Objective`), made of those whose weight is not 0."""

    def __init__(self, job: Job, manifest: SequenceManifest) -> None:
        weights = job.model.objectives
        self.end_us = round(manifest.as_of.timestamp() * 1_000_000)
        self.longest_days = job.pretrain.longest_horizon_days
        self.scale = Scale(manifest.layout.numerical, manifest.scaling)
        parts: list[tuple[float, Objective]] = []
        if weights.masked:
            masked = MaskedRecovery(
                manifest.layout,
                manifest.scaling,
                seed=job.seed,
                mask_share=job.pretrain.mask_share,
                memory_dropout=job.model.memory_dropout,
            )
            parts.append((weights.masked, masked))
        self.future: DenseFuture | None = None
        if weights.future:
            self.future = DenseFuture(
                job.model,
                manifest.layout,
                manifest.scaling,
                as_of=manifest.as_of,
                seed=job.seed,
                num_times=job.pretrain.as_of_times,
            )
            parts.append((weights.future, self.future))
        if weights.contrastive:
            parts.append((weights.contrastive, Contrastive(seed=job.seed)))
        self.compares_customers = bool(weights.contrastive)
        self.next_event: NextEvent | None = None
        if weights.next_event:
            self.next_event = NextEvent(
                manifest.layout, manifest.scaling, seed=job.seed, num_times=job.pretrain.as_of_times
            )
            parts.append((weights.next_event, self.next_event))
        total = sum(weight for weight, _ in parts)
        self.parts = [(weight / total, part) for weight, part in parts]
        self.sizes = [part.size for _, part in parts]
        self.size = sum(self.sizes)

    def fit(self, network: Network, chunks: Callable[[], Iterator[Batch]], ranks: Ranks) -> None:
        """Take from the training data what constants and units the objectives and the network need."""
        of_objectives = (network.heads, network.next_event.attributes if network.next_event else None)
        fit_wide_heads([heads for heads in of_objectives if heads], network.layout, chunks, ranks)
        if not isinstance(network.encoder, CausalEncoder):
            return
        units = units_of(chunks, ranks, end_us=self.end_us, longest_days=self.longest_days, scale=self.scale)
        if network.encoder.decayed is not None:
            network.encoder.decayed.fit(
                longest_days=units.longest_days, mean_rate=units.mean_rate, mean_absolute_N=units.mean_absolute_N
            )
        if self.future is not None:
            self.future.fit(network, chunks, ranks, units)
        if self.next_event is not None:
            self.next_event.fit(network, chunks, ranks)

    def draw(self, batch: Batch, *, epoch: int) -> list[Any]:
        return [part.draw(batch, epoch=epoch) for _, part in self.parts]

    def counts(self, batch: Batch, drawn: list[Any]) -> Tensor:
        return torch.cat([part.counts(batch, of) for (_, part), of in zip(self.parts, drawn, strict=True)])

    def sums(self, network: Network, batch: Batch, drawn: list[Any]) -> Tensor:
        return torch.cat([part.sums(network, batch, of) for (_, part), of in zip(self.parts, drawn, strict=True)])

    def weights(self, counts_A: Tensor) -> Tensor:
        of_parts = zip(self.parts, torch.split(counts_A, self.sizes), strict=True)
        return torch.cat([weight * part.weights(counts) for (weight, part), counts in of_parts])

    def by_name(self, sums_A: Tensor, counts_A: Tensor) -> dict[str, float]:
        of_parts = zip(self.parts, torch.split(sums_A, self.sizes), torch.split(counts_A, self.sizes), strict=True)
        return {
            name: ratio for (_, part), sums, counts in of_parts for name, ratio in part.by_name(sums, counts).items()
        }

    def loss(self, sums_A: Tensor, counts_A: Tensor) -> float:
        """The weighted mean over the objectives that have anything to guess; 1.0 is the best constant guess."""
        of_parts = zip(self.parts, torch.split(sums_A, self.sizes), torch.split(counts_A, self.sizes), strict=True)
        found = [(weight, part.weights(counts), sums) for (weight, part), sums, counts in of_parts]
        known = [(weight, float((shares.double() * sums).sum())) for weight, shares, sums in found if shares.any()]
        return sum(weight * loss for weight, loss in known) / sum(weight for weight, _ in known)
