"""A sketch that was written as rows is the same when it is read again."""

from datetime import UTC, datetime

import numpy as np

from caspr_spark.monitor.charts import Chart
from caspr_spark.monitor.records import DriftNumber, ProfileNumber, chart_numbers, charts_of, sketch_numbers, sketch_of
from caspr_spark.monitor.sketch import NUM_DISTANCE_BINS

AS_OF = datetime(2024, 1, 1, tzinfo=UTC)
ALERT = Chart("known", "page=unknown", "rolling", 0.004, 0.081, 0.45, 9.1, 4.2, is_alert=True)
CALM = Chart("number", "amount", "fixed", 0.0, 0.1, 0.1, 1.0, 4.2, is_alert=False)
SHIFT = Chart("distance", "shift", "rolling", 0.0, 0.1, 0.1, 0.5, 4.2, is_alert=False)


def test_sketch_survives_its_rows() -> None:
    profile = [
        ProfileNumber("value", "page", "home", 3.0, 1.5, 2.5),
        ProfileNumber("value", "page", "help", 1.0, 1.5, 2.5),
        ProfileNumber("number", "amount", "-3", 4.0, 0.0, 2.0),
    ]
    distances = {"new events, 2 to 8 days": np.arange(NUM_DISTANCE_BINS, dtype=float)}
    first = sketch_of("r1", AS_OF, "full", profile=profile, drift=[DriftNumber("customers", "", "sound", 40.0)])
    whole = type(first)(
        "r1", AS_OF, "full", 40, distances, np.array([0.25, -1.0]), np.array([1.0, 0.5]), first.shares, first.numbers
    )
    drift = [*sketch_numbers(whole), *chart_numbers([ALERT], kept=0)]
    again = sketch_of("r1", AS_OF, "full", profile=profile, drift=drift)
    assert (again.num_customers, again.alerts) == (40, {"rolling"})
    assert again.shares["value", "page"].bins == {"home": 3.0, "help": 1.0}
    assert (again.shares["value", "page"].customers, again.shares["value", "page"].squares["help"]) == (2.5, 1.5)
    assert again.numbers["amount"].bins == {"-3": 4.0}
    assert again.distances.keys() == distances.keys()
    assert list(again.distances["new events, 2 to 8 days"]) == list(range(NUM_DISTANCE_BINS))
    assert (list(again.means), list(again.variances)) == ([0.25, -1.0], [1.0, 0.5])


def test_alerts_and_the_distances_are_told_of_every_run_and_the_nearest_of_the_rest() -> None:
    assert charts_of(chart_numbers([CALM, SHIFT, ALERT], kept=0)) == [ALERT, SHIFT]
    assert charts_of(chart_numbers([CALM, SHIFT, ALERT], kept=2)) == [ALERT, CALM, SHIFT]
