"""The generator splitmix64 (Steele, Lea and Flood 2014), whose every number can be had without those before it."""

from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
"""What its state grows by from one number to the next."""


def signed(number: int) -> int:
    """An unsigned 64-bit number as torch's int64 holds it."""
    return (number & (2**64 - 1)) - (2**64 if number & 2**63 else 0)


def splitmix64(state: Tensor) -> Tensor:
    """The generator's output for an int64 state, with the wrapping multiplication of 64-bit integers."""

    def shifted(bits: Tensor, by: int) -> Tensor:
        return (bits >> by) & ((1 << (64 - by)) - 1)  # torch shifts the sign in

    mixed = state + signed(GOLDEN)
    mixed = (mixed ^ shifted(mixed, 30)) * signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ shifted(mixed, 27)) * signed(0x94D049BB133111EB)
    return mixed ^ shifted(mixed, 31)
