"""Who stays away? A model on published vectors in ten lines, beside one on features made by hand.

    python docs/example/churn.py --root data/complete_journey --source purchases --cut 2017-10-02T00:00:00Z

Reads tables only: neither Spark nor torch is needed, but polars, scikit-learn and `caspr_spark.reader`.
"""

import argparse
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from caspr_spark.reader import read_as_of

options = argparse.ArgumentParser(description="Who has no event of a source in the four weeks after the cut?")
options.add_argument("--root", required=True, help="the root of the tables")
options.add_argument("--source", required=True, help="the source whose events are looked at")
options.add_argument("--cut", required=True, type=datetime.fromisoformat, help="a time with a zone; labels begin there")
options.add_argument(
    "--active-days", type=int, default=56, help="asked are customers with an event so many days before"
)
options.add_argument("--horizon-days", type=int, default=28)
given = options.parse_args()
cut, time = given.cut, pl.col("event_time")

# The labels are yours. Here: who had an event in the weeks before the cut, and has none in the weeks from it on.
events = pl.read_delta(f"{given.root}/events", columns=["customer_id", "event_time", "source"])
events = events.filter(pl.col("source") == given.source)
before = events.filter(time < cut)
after = events.filter(time >= cut, time < cut + timedelta(days=given.horizon_days))
asked = (
    before.filter(time >= cut - timedelta(days=given.active_days)).select("customer_id").unique().sort("customer_id")
)
stays_away = ~pl.col("customer_id").is_in(after["customer_id"].unique().to_list())
labels = asked.with_columns(stays_away.alias("label"), pl.lit(cut).alias("event_time"))

# The vectors that were known at the time of each label: no event at or after it has a part in them.
rows = read_as_of(given.root, labels, columns=["embedding"]).drop_nulls("embedding")
vectors = np.stack(rows["embedding"].to_list())

# Made by hand: how long ago the last event was, how many there were, for how long the customer is known.
days = [(pl.lit(cut) - one).dt.total_hours() / 24 for one in (time.max(), time.min())]
by_hand = before.group_by("customer_id").agg(days[0].alias("recency"), pl.len().alias("count"), days[1].alias("tenure"))
by_hand = rows.select("customer_id").join(by_hand, on="customer_id", how="left", maintain_order="left")
numbers = np.log1p(by_hand.drop("customer_id").to_numpy().astype(float))

folds = list(StratifiedKFold(n_splits=5, shuffle=True, random_state=1).split(vectors, rows["label"]))
print(f"{len(rows):,} customers, {rows['label'].mean():.1%} of whom stay away for {given.horizon_days} days")
for name, features in {"made by hand": numbers, "vector": vectors, "both": np.hstack([numbers, vectors])}.items():
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    guesses = cross_val_predict(model, features, rows["label"].to_numpy(), cv=folds, method="predict_proba")[:, 1]
    print(f"{name:12}  AUROC {roc_auc_score(rows['label'], guesses):.3f}")
