"""Each switch of the simulated bank that breaks the data is seen in the first refresh, by what its new events are made
of alone: no vectors are made here."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from caspr_spark.monitor.sketch import NUMBER_BINS_A_UNIT, Counts, Sketch
from caspr_spark.monitor.verdict import chart_text, verdict
from caspr_spark.simulate.bank.batches import batch_rows
from caspr_spark.simulate.bank.customers import Bank
from caspr_spark.simulate.bank.faults import parsed_faults, shifts
from caspr_spark.simulate.bank.tables import TABLES
from tests.monitor.refreshing_bank import counts_of
from tests.monitor.test_charts import LIMITS, judged

START = datetime(2024, 3, 1, tzinfo=UTC)
NUM_DAYS = 45
"""The last one is under a fault, or is not."""
ATTRIBUTES = {
    "clicks": {"page": "page", "click": "kind", "channel": "channel"},
    "card_transactions": {"category": "category", "country": "country", "amount": "amount"},
    "account_transactions": {"booking": "kind", "booked": "amount"},
}
Days = Callable[..., list[Sketch]]


@pytest.fixture(scope="module")
def days(spark: SparkSession) -> Days:
    """The sketches of daily refreshes of 500 customers; the last day is made again under each fault."""
    clean: dict[str, pd.DataFrame] = {}

    def rows(name: str, batches: range, *faults: str) -> pd.DataFrame:
        parsed = parsed_faults(faults)
        bank = Bank(500, START, 5, shifts=shifts(parsed, start=START, hours=24))
        return batch_rows(spark, bank, TABLES[name], hours=24, batches=batches, faults=parsed).toPandas()

    def made(*faults: str) -> list[Sketch]:
        for name in ATTRIBUTES if not clean else ():
            clean[name] = rows(name, range(NUM_DAYS))
        known = {name: table[table["batch"] < NUM_DAYS - 1] for name, table in clean.items()}
        last = {name: rows(name, range(NUM_DAYS - 1, NUM_DAYS), *faults) for name in ATTRIBUTES}
        return [
            sketch({name: (table if day < NUM_DAYS - 1 else last[name]) for name, table in known.items()}, known, day)
            for day in range(NUM_DAYS)
        ]

    return made


def sketch(tables: dict[str, pd.DataFrame], known: dict[str, pd.DataFrame], day: int) -> Sketch:
    """What the monitor would count of one day's events; values that were never seen before are unknown."""
    today = {name: table[table["batch"] == day] for name, table in tables.items()}
    customers = pd.concat([table["customer_id"] for table in today.values()])
    source = np.repeat(np.arange(len(today)), [len(table) for table in today.values()])
    codes = customers.astype("category").cat.codes.to_numpy()
    shares: dict[tuple[str, str], Counts] = {("value", "source"): counts_of(source, codes, list(today))}
    numbers: dict[str, Counts] = {}
    for place, (name, table) in enumerate(today.items()):
        own = codes[source == place]
        for attribute, column in ATTRIBUTES[name].items():
            values = table[column]
            here = values.notna().to_numpy()
            is_missing = np.ones(len(source), dtype=int)
            is_missing[source == place] = ~here
            shares["present", attribute] = counts_of(is_missing, codes, ["present", "missing"])
            if pd.api.types.is_numeric_dtype(values):
                x = values[here].to_numpy(dtype=float)
                bins = np.floor(np.sign(x) * np.log1p(np.abs(x)) * NUMBER_BINS_A_UNIT).astype(int)
                names, places = np.unique(bins, return_inverse=True)
                numbers[attribute] = counts_of(places, own[here], [str(name) for name in names])
                continue
            words = sorted(known[name][column].dropna().unique())
            places = pd.Categorical(values[here], categories=words).codes.astype(int)
            shares["known", attribute] = counts_of((places < 0).astype(int), own[here], ["known", "unknown"])
            shares["value", attribute] = counts_of(places[places >= 0], own[here][places >= 0], words)
    return Sketch(
        run_id=f"day-{day:02}",
        as_of=START + timedelta(days=day + 1),
        kind="refresh",
        num_customers=int(customers.nunique()),
        shares={key: one for key, one in shares.items() if one.bins},
        numbers={key: one for key, one in numbers.items() if one.bins},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("page_renamed", "unknown values of page"),
        ("category_dropped", "category 'groceries'"),
        ("amounts_in_cents", "amount larger"),
        ("quiet_day", "source 'clicks'"),
    ],
)
def test_f81_switch_is_seen_in_the_first_refresh(days: Days, fault: str, seen: str) -> None:
    *earlier, last = days(fault)
    found = verdict(last, earlier, median_distance=None, limits=LIMITS)
    texts = [chart_text(chart) for chart in found.alerts]
    print(fault, texts)
    assert any(text.startswith(seen) for text in texts)


@pytest.mark.slow
def test_f80_quiet_days_of_the_bank_raise_no_alert(days: Days) -> None:
    alerts = [[chart_text(chart) for chart in found.alerts] for _, found in judged(days())]
    assert len(alerts) == NUM_DAYS
    assert [texts for texts in alerts if texts] == []
