"""How much of the invented bank's future is in the order of what customers did, beyond how often. Printed by `-s`."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from caspr_spark.evaluate.heads import Data, lightgbm
from caspr_spark.simulate.bank.batches import batch_rows
from caspr_spark.simulate.bank.customers import Bank
from caspr_spark.simulate.bank.tables import TABLES

START, NUM_DAYS = datetime(2024, 1, 1, tzinfo=UTC), 56
CUTS = [pd.Timestamp(START) + pd.Timedelta(days=day) for day in (28, 35, 42, 49)]
HORIZON = pd.Timedelta(days=7)
BANK = Bank(num_customers=4000, start=START, seed=1)
WINDOW_DAYS = (7, 14, 28)
WANTED = "payments"  # the reason for the next visit that is asked for
ENTRIES = ("login", "overview")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_future_is_predicted_better_from_sequences_than_from_counts(spark: SparkSession) -> None:
    clicks = raw(spark, "clicks").sort_values(["customer_id", "clicked_at", "click_id"], ignore_index=True)
    calls, accounts, takeovers = (raw(spark, name) for name in ("calls", "accounts", "takeovers"))
    closed = accounts[accounts["status"] == "closed"]
    happened = {
        "call": calls[calls["topic"] == "cards"].rename(columns={"called_at": "time"}),
        "churn": closed.rename(columns={"valid_from": "time"}),
        "takeover": takeovers.rename(columns={"taken_over_at": "time"}),
    }
    steps = clicks[~clicks["page"].isin([*ENTRIES, "logout"])].copy()
    by_customer = steps.groupby("customer_id")["page"]
    steps["pair"] = by_customer.shift() + " > " + steps["page"]
    steps["is_first"] = clicks["page"].shift().isin(ENTRIES)[steps.index]
    purposes = steps[steps["is_first"]]

    parts: dict[str, list[pd.DataFrame]] = {task: [] for task in (*happened, "intent")}
    for cut in CUTS:
        left = closed.loc[closed["valid_from"] < cut, "customer_id"]
        features = page_counts(clicks, cut).join(page_pairs(steps, cut), how="left").drop(left, errors="ignore")
        features = features.join(entry_habits(purposes[purposes["clicked_at"] < cut]), how="left").fillna(0.0)
        for task, rows in happened.items():
            within = rows.loc[rows["time"].between(cut, cut + HORIZON, inclusive="left"), "customer_id"]
            parts[task].append(features.assign(label=features.index.isin(within).astype(int)))
        coming = purposes[purposes["clicked_at"].between(cut, cut + HORIZON, inclusive="left")]
        upcoming = (coming.groupby("customer_id")["page"].first() == WANTED).astype(int).rename("label")
        parts["intent"].append(features.join(upcoming, how="inner"))

    found = {}
    for task, of_cuts in parts.items():
        table = pd.concat(of_cuts).fillna(0.0)
        counts = [name for name in table.columns if name.startswith("count")]
        everything = [name for name in table.columns if name != "label"]
        found[task] = scores(table[counts], table["label"]), scores(table[everything], table["label"])
        by_counts, by_order = (f"AUROC {auroc:.3f}, PR-AUC {precision:.3f}" for auroc, precision in found[task])
        print(f"{task}: {int(table['label'].sum())} of {len(table)}; counts {by_counts}; with order {by_order}")
    assert all(by_order[0] > by_counts[0] + 0.03 for by_counts, by_order in found.values())
    assert all(by_order[1] > by_counts[1] * 1.2 for by_counts, by_order in found.values())


def raw(spark: SparkSession, name: str) -> pd.DataFrame:
    rows: pd.DataFrame = batch_rows(spark, BANK, TABLES[name], hours=24, batches=range(NUM_DAYS)).toArrow().to_pandas()
    return rows


def page_counts(clicks: pd.DataFrame, cut: pd.Timestamp) -> pd.DataFrame:
    """Customer x (page or device, window): how often; and days since the last click."""
    parts = []
    for days in WINDOW_DAYS:
        seen = clicks[clicks["clicked_at"].between(cut - timedelta(days=days), cut, inclusive="left")]
        for column in ("page", "device"):
            table = pd.crosstab(seen["customer_id"], seen[column])
            parts.append(table.add_prefix(f"count of {days} days: "))
    newest = clicks[clicks["clicked_at"] < cut].groupby("customer_id")["clicked_at"].max()
    parts.append(((cut - newest) / pd.Timedelta(days=1)).to_frame("count of days since"))
    return pd.concat(parts, axis=1).fillna(0.0)


def page_pairs(steps: pd.DataFrame, cut: pd.Timestamp) -> pd.DataFrame:
    """Customer x two pages: how often the second came next within 14 days."""
    recent = steps[steps["clicked_at"].between(cut - timedelta(days=14), cut, inclusive="left")]
    return pd.crosstab(recent["customer_id"], recent["pair"])


def entry_habits(purposes: pd.DataFrame) -> pd.DataFrame:
    """Of the pages with which a customer's visits begin: the last, and how often WANTED came after it so far."""
    own = purposes[["customer_id", "page"]].copy()
    own["following"] = own.groupby("customer_id")["page"].shift(-1)
    last = own.groupby("customer_id")["page"].last().rename("last")
    after_last = own.join(last, on="customer_id").query("page == last").dropna(subset="following")
    wanted = (after_last["following"] == WANTED).groupby(after_last["customer_id"]).agg(["sum", "count"])
    return pd.get_dummies(last, prefix="last", dtype=float).join(wanted.add_prefix("after last: "), how="left")


def scores(features: pd.DataFrame, labels: pd.Series) -> tuple[float, float]:
    """AUROC and average precision of gradient-boosted trees: the means over five folds of customers."""
    x, y, customers = features.to_numpy(dtype=float), labels.to_numpy(), features.index
    found = []
    for rest, test in GroupKFold(5, shuffle=True, random_state=0).split(x, groups=customers):
        is_validation = pd.Index(customers[rest]).isin(sorted(set(customers[rest]))[::4])
        training, validation = rest[~is_validation], rest[is_validation]
        fitted = lightgbm(Data(x[training], y[training]), Data(x[validation], y[validation]), x[test], seed=0)
        guessed = fitted.test_predictions
        found.append((roc_auc_score(y[test], guessed), average_precision_score(y[test], guessed)))
    auroc, precision = np.mean(found, axis=0)
    return float(auroc), float(precision)
