"""Random draws as hashes: a draw depends on the seed, on what it is for and on whom, and on nothing else.

So the same rows come out however Spark cuts the work and however the time is cut into batches.
"""

from collections.abc import Mapping, Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F


def chance(seed: int, stream: str, *whose: Column) -> Column:
    """A number in [0, 1). `stream` says what it is for; `whose` are integers: the customer, a day, an index."""
    hashed = F.xxhash64(F.lit(seed).cast("bigint"), F.lit(stream), *[part.cast("bigint") for part in whose])
    return F.shiftrightunsigned(hashed, 11) * F.lit(2.0**-53)


def integer(draw: Column, low: int, high: int) -> Column:
    """A draw as an integer in [low, high]."""
    return (F.floor(draw * (high - low + 1)) + low).cast("int")


def one_of(draw: Column, values: Sequence[str]) -> Column:
    """A draw as one of the values, all equally likely."""
    return F.element_at(F.array(*map(F.lit, values)), integer(draw, 1, len(values)))


def weighted(draw: Column, weights: Mapping[str, float]) -> Column:
    """A draw as one of the names, each with its share of the weights."""
    bounds = [sum(list(weights.values())[:place]) / sum(weights.values()) for place in range(1, len(weights))]
    place = sum(((draw >= bound).cast("int") for bound in bounds), F.lit(1))
    return F.element_at(F.array(*map(F.lit, weights)), place)


def looked_up(name: Column, values: Mapping[str, float] | Mapping[str, Column]) -> Column:
    """The value that stands under a name; null under an unknown one."""
    pairs = [
        part
        for key, value in values.items()
        for part in (F.lit(key), value if isinstance(value, Column) else F.lit(value))
    ]
    return F.try_element_at(F.create_map(*pairs), name)


def moment(day: Column, second: Column) -> Column:
    """The timestamp of a second (0 to 86,399) of a day (days since 1970-01-01, UTC)."""
    return F.timestamp_seconds(day.cast("bigint") * 86_400 + second.cast("bigint"))
