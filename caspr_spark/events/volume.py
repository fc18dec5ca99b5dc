"""The verdicts on what arrived of each raw table: how many rows, and how far from as_of the newest event is."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from caspr_spark.config import HoursLimit, HoursSection, OnFail, VolumeLimits, VolumeSection
from caspr_spark.gate import Judged, Verdict, validated


class Arrived(NamedTuple):
    """What arrived of one raw table."""

    rows: int | None
    """Rows read; None: they are not judged."""
    usual_rows: Sequence[float]
    """Rows read by the last runs of the same kind."""
    hours: float | None
    """Hours from the newest event before the run's as_of to it; None: not measured."""
    hours_ahead: float | None = None
    """Hours from as_of to the newest event, at least 0; None: not measured."""


class _Check(NamedTuple):
    """A number, the limits of it, and what is said of it."""

    name: str
    number: float
    least: float | None
    most: float | None
    on_fail: OnFail
    text: str


def arrival_verdicts(
    tables: Mapping[str, Arrived], *, volume: VolumeSection, freshness: HoursSection, ahead: HoursSection
) -> Judged:
    """Three verdicts on each raw table, where there are limits; on its volume with `volume.min_runs` runs before."""
    import great_expectations.expectations as gxe

    checks: dict[str, _Check] = {}
    for name, arrived in tables.items():
        limits = volume.of(name)
        if len(arrived.usual_rows) >= volume.min_runs and (check := _volume(name, arrived, limits)):
            checks[f"{name}: rows that arrived"] = check
        if check := _freshness(name, arrived, freshness.of(name)):
            checks[f"{name}: hours since the newest event"] = check
        if check := _ahead(name, arrived, ahead.of(name)):
            checks[f"{name}: hours that the newest event is ahead"] = check
    found = validated(
        pd.DataFrame([{column: float(check.number) for column, check in checks.items()}]),
        {
            column: gxe.ExpectColumnMaxToBeBetween(column=column, min_value=check.least, max_value=check.most)
            for column, check in checks.items()
        },
        suite="what arrived",
    )
    verdicts = [
        Verdict(checks[column].name, passed, checks[column].on_fail, None, checks[column].text)
        for column, (passed, _) in found.results.items()
    ]
    return Judged(verdicts, found.outcome)


def _volume(name: str, arrived: Arrived, limits: VolumeLimits) -> _Check | None:
    median = statistics.median(arrived.usual_rows)
    if arrived.rows is None or not median or (limits.min_ratio is None and limits.max_ratio is None):
        return None
    least, most = (None if ratio is None else ratio * median for ratio in (limits.min_ratio, limits.max_ratio))
    expected = " to ".join("any" if bound is None else f"{bound:,.0f}" for bound in (least, most))
    text = (
        f"{name}: {arrived.rows:,} rows arrived; {expected} are expected, as the median of the last "
        f"{len(arrived.usual_rows)} runs of the kind is {median:,.0f}"
    )
    return _Check(f"{name}.volume", arrived.rows, least, most, limits.on_fail, text)


def _freshness(name: str, arrived: Arrived, limit: HoursLimit) -> _Check | None:
    if arrived.hours is None or limit.max_hours is None:
        return None
    text = f"{name}: the newest event is {arrived.hours:,.1f} hours older than as_of; {limit.max_hours:,} may be"
    return _Check(f"{name}.freshness", arrived.hours, None, limit.max_hours, limit.on_fail, text)


def _ahead(name: str, arrived: Arrived, limit: HoursLimit) -> _Check | None:
    if arrived.hours_ahead is None or limit.max_hours is None:
        return None
    text = f"{name}: the newest event is {arrived.hours_ahead:,.1f} hours later than as_of; {limit.max_hours:,} may be"
    return _Check(f"{name}.ahead", arrived.hours_ahead, None, limit.max_hours, limit.on_fail, text)
