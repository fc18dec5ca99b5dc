"""What one pass over a split has added up to."""

from dataclasses import dataclass

from torch import Tensor

from caspr_spark.pretrain.goal import WholeObjective


@dataclass
class Tally:
    """Sums and counts [A] of one pass over a split, all ranks together once the pass is over."""

    objective: WholeObjective
    sums_A: Tensor
    counts_A: Tensor
    rows: int = 0
    waiting_seconds: float = 0.0
    exchange_seconds: float = 0.0

    @property
    def by_attribute(self) -> dict[str, float]:
        return self.objective.by_name(self.sums_A, self.counts_A)

    @property
    def has_any(self) -> bool:
        return bool(self.by_attribute)

    @property
    def loss(self) -> float:
        """Mean over the objectives, by their weights; 1.0 is the best constant guess."""
        return self.objective.loss(self.sums_A, self.counts_A)
