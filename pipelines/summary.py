"""What a step tells its caller: the numbers of its progress line, and whether anything had to be done."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """`rows_in` and `rows_out` of a step; `notes` are further lines for the user; `changed` is False for a no-op.

    `problem`: what stopped a part of the work that the rest does not need. A command raises it when all else is done.
    """

    step: str
    rows_in: int
    rows_out: int
    notes: tuple[str, ...] = ()
    changed: bool = True
    problem: Exception | None = None
