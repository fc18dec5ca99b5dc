"""All trained weights as one tensor, what the ranks add up of their gradients, and a step of AdamW."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

ADAM_BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8


class Rows(NamedTuple):
    """Those rows of a table that a step met."""

    ids_R: Tensor
    """Ascending."""
    gradient_RX: Tensor


class Table(NamedTuple):
    """A parameter of very many rows, whose gradient is kept of those rows alone that a step met."""

    parameter: nn.Parameter
    group: int
    start: int
    """Its first number in the weights; it has len(parameter) * parameter.shape[1] of them."""

    def of(self, weights_W: Tensor) -> Tensor:
        """[rows, X], a view."""
        return weights_W[self.start : self.start + self.parameter.numel()].view_as(self.parameter)


class FlatWeights:
    """All W trained weights as one tensor, the tables last, and the gradient of all others as another tensor.

    The network's parameters become views of them. `message` is that gradient with `num_extra` numbers behind it that
    travel with it: one sum over the ranks. The gradients of `tables` are sparse, and summed by `sum_rows`.
    """

    def __init__(
        self, groups: Sequence[Sequence[nn.Parameter]], num_extra: int, *, tables: Collection[nn.Parameter] = ()
    ) -> None:
        is_table = {id(parameter) for parameter in tables}
        members = [(number, parameter) for number, group in enumerate(groups) for parameter in group]
        dense = [(number, parameter) for number, parameter in members if id(parameter) not in is_table]
        by_row = [(number, parameter) for number, parameter in members if id(parameter) in is_table]
        self.parameters = [parameter for _, parameter in (*dense, *by_row)]
        self.weights_W = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        self.sizes = [0 for _ in groups]
        """Weights of each group, but for its tables."""
        for number, parameter in dense:
            self.sizes[number] += parameter.numel()
        num_dense = sum(self.sizes)
        self.message = self.weights_W.new_zeros(num_dense + num_extra)
        self.gradient = self.message[:num_dense]
        self.extra = self.message[num_dense:]
        self.gradients: list[Tensor] = []
        self.tables: list[Table] = []
        start = 0
        for position, (number, parameter) in enumerate((*dense, *by_row)):
            stop = start + parameter.numel()
            parameter.data = self.weights_W[start:stop].view_as(parameter)
            if position < len(dense):
                self.gradients.append(self.gradient[start:stop].view_as(parameter))
            else:
                self.tables.append(Table(parameter, number, start))
            start = stop
        self.found: list[list[Tensor]] = [[] for _ in self.tables]
        """Sparse gradients of each table."""
        self.rows: list[Rows] = []
        """Of each table, of all ranks together, once `sum_rows` was called."""

    def clear(self) -> None:
        """Forget the gradient, and what travels with it."""
        self.message.zero_()
        self.found, self.rows = [[] for _ in self.tables], []

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add to the gradient those of each of `parameters`; None where the loss does not depend on it."""
        num_dense = len(self.gradients)
        pairs = zip(self.gradients, gradients[:num_dense], strict=True)
        known = [(total, of) for total, of in pairs if of is not None]
        if known:
            torch._foreach_add_([total for total, _ in known], [of for _, of in known])
        for table, found, of in zip(self.tables, self.found, gradients[num_dense:], strict=True):
            if of is not None:
                found.append(of)
            if sum(len(gradient._values()) for gradient in found) > len(table.parameter):  # no more than all rows
                found[:] = [_merged(found)]

    def sum_rows(self, sum_: Callable[[Tensor], None]) -> None:
        """Make `rows` of what was added; `sum_` replaces a tensor by its sum over the ranks."""
        if not self.tables:
            return
        is_met = self.weights_W.new_zeros(sum(len(table.parameter) for table in self.tables))
        of_tables = torch.split(is_met, [len(table.parameter) for table in self.tables])
        for is_met_V, found in zip(of_tables, self.found, strict=True):
            for gradient in found:
                is_met_V[gradient._indices()[0]] = 1.0
        sum_(is_met)
        ids = [is_met_V.nonzero()[:, 0] for is_met_V in of_tables]
        shapes = [(len(ids_R), table.parameter.shape[1]) for ids_R, table in zip(ids, self.tables, strict=True)]
        message = self.weights_W.new_zeros(sum(rows * width for rows, width in shapes))
        parts = torch.split(message, [rows * width for rows, width in shapes])
        sums = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        for ids_R, sum_RX, found in zip(ids, sums, self.found, strict=True):
            for gradient in found:
                sum_RX.index_add_(0, torch.searchsorted(ids_R, gradient._indices()[0]), gradient._values())
        if len(message):
            sum_(message)
        self.rows = [Rows(*pair) for pair in zip(ids, sums, strict=True)]

    def norm(self) -> Tensor:
        """Of the whole gradient."""
        norm: Tensor = self.gradient.norm()
        if self.rows:
            norm = torch.stack([norm, *(rows.gradient_RX.norm() for rows in self.rows)]).norm()
        return norm

    def scale(self, factor: Tensor) -> None:
        """Multiply the whole gradient."""
        self.gradient.mul_(factor)
        for rows in self.rows:
            rows.gradient_RX.mul_(factor)


def _merged(gradients: Sequence[Tensor]) -> Tensor:
    """Their sum, with each row once."""
    ids = torch.cat([gradient._indices() for gradient in gradients], dim=1)
    values = torch.cat([gradient._values() for gradient in gradients])
    return torch.sparse_coo_tensor(ids, values, gradients[0].shape).coalesce()


def adam_step(
    flat: FlatWeights,
    moments: tuple[Tensor, Tensor],
    rates: Sequence[float],
    *,
    num_steps: int,
    weight_decay: float,
) -> None:
    """One step of AdamW, in place, after `num_steps`; `rates`: the learning rate of each group.

    `moments`: first_moment_W and second_moment_W. Rows of a table that the step did not meet stay as they are, moments
    and decay included (as torch.optim.SparseAdam does).
    """
    step = torch.tensor(float(num_steps + 1), device=flat.weights_W.device)
    num_dense = len(flat.gradient)
    dense_parts = (flat.weights_W[:num_dense], flat.gradient, *(moment_W[:num_dense] for moment_W in moments))
    of_groups = [torch.split(part, flat.sizes) for part in dense_parts]
    for number, rate in enumerate(rates):
        _adamw([of_group[number] for of_group in of_groups], rate, step=step, weight_decay=weight_decay)
    for table, (ids_R, gradient_RX) in zip(flat.tables, flat.rows, strict=True):
        weights, *others = (table.of(whole_W) for whole_W in (flat.weights_W, *moments))
        chosen = [weights[ids_R], gradient_RX, *(other[ids_R] for other in others)]
        _adamw(chosen, rates[table.group], step=step, weight_decay=weight_decay)
        for part, moved in zip((weights, *others), (chosen[0], *chosen[2:]), strict=True):
            part.index_copy_(0, ids_R, moved)


def _adamw(parts: Sequence[Tensor], rate: float, *, step: Tensor, weight_decay: float) -> None:
    """torch's own kernel on (weights, gradient, first moment, second moment), in place.

    `torch.optim.AdamW` would load the compiler of torch with it, for 150 MB.
    """
    weights, gradient, first_moment, second_moment = parts
    torch._fused_adamw_(
        [weights],
        [gradient],
        [first_moment],
        [second_moment],
        [],
        [step],
        lr=rate,
        beta1=ADAM_BETAS[0],
        beta2=ADAM_BETAS[1],
        weight_decay=weight_decay,
        eps=ADAM_EPSILON,
        amsgrad=False,
        maximize=False,
    )
