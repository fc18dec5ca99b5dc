"""What arrived of a raw table, judged by earlier runs and by how far its newest event is from as_of."""

import pytest

from caspr_spark.config import HoursSection, VolumeSection
from caspr_spark.events.volume import Arrived, arrival_verdicts
from caspr_spark.gate import Verdict

LIMITS = {"min_ratio": 0.5, "max_ratio": 2.0, "on_fail": "warn"}
OFTEN = [100.0] * 8


def verdict(arrived: Arrived, **by_table: object) -> Verdict | None:
    volume = VolumeSection.model_validate({"num_runs": 10, "min_runs": 8, "limits": LIMITS, "by_table": by_table})
    freshness = HoursSection.model_validate({"limit": {"max_hours": 24, "on_fail": "stop"}, "by_source": {}})
    ahead = HoursSection.model_validate({"limit": {"max_hours": 0.5, "on_fail": "stop"}, "by_source": {}})
    verdicts = arrival_verdicts({"orders": arrived}, volume=volume, freshness=freshness, ahead=ahead).verdicts
    return verdicts[0] if verdicts else None


@pytest.mark.parametrize(("rows", "passes"), [(49, False), (50, True), (200, True), (201, False), (0, False)])
def test_volume_is_judged_by_the_median_of_the_last_runs(rows: int, passes: bool) -> None:
    found = verdict(Arrived(rows, [*OFTEN, 1.0, 10_000.0], None))
    assert found is not None
    assert (found.check, found.passed, found.on_fail) == ("orders.volume", passes, "warn")
    assert found.detail == (
        f"orders: {rows:,} rows arrived; 50 to 200 are expected, as the median of the last 10 runs of the kind is 100"
    )


@pytest.mark.parametrize(
    "arrived",
    [Arrived(0, OFTEN[:7], None), Arrived(0, [0.0] * 8, None), Arrived(None, OFTEN, None)],
    ids=["few runs", "mostly nothing", "nothing arrived at all"],
)
def test_too_few_runs_and_tables_that_mostly_bring_nothing_have_no_verdict(arrived: Arrived) -> None:
    assert verdict(arrived) is None


def test_limits_of_a_table_of_its_own() -> None:
    own = {"min_ratio": None, "max_ratio": 1.5, "on_fail": "stop"}
    found = verdict(Arrived(0, OFTEN, None), orders=own)
    assert found is not None
    assert (found.passed, found.on_fail) == (True, "stop")
    assert verdict(Arrived(0, OFTEN, None), orders={**own, "max_ratio": None}) is None


@pytest.mark.parametrize(("hours", "passes"), [(24.0, True), (24.5, False)])
def test_an_old_newest_event_is_stale(hours: float, passes: bool) -> None:
    found = verdict(Arrived(None, [], hours))
    assert found is not None
    assert (found.check, found.passed, found.on_fail) == ("orders.freshness", passes, "stop")
    assert found.detail == f"orders: the newest event is {hours} hours older than as_of; 24.0 may be"


@pytest.mark.parametrize(("hours", "passes"), [(0.0, True), (0.5, True), (1.5, False)])
def test_f55_an_event_after_as_of_is_ahead(hours: float, passes: bool) -> None:
    found = verdict(Arrived(None, [], None, hours))
    assert found is not None
    assert (found.check, found.passed, found.on_fail) == ("orders.ahead", passes, "stop")
    assert found.detail == f"orders: the newest event is {hours} hours later than as_of; 0.5 may be"
