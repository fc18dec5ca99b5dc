"""Paired differences over random splits, with errors that know that the test sets overlap."""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from caspr_spark.evaluate.experiment import (
    ARMS,
    BOOTSTRAP_BETTER,
    BOOTSTRAP_ERROR,
    CUSTOMERS,
    EMBEDDING,
    LABELS,
    RFM,
    RULE,
)
from caspr_spark.evaluate.heads import Array
from caspr_spark.evaluate.next_values import EASE
from caspr_spark.evaluate.questions import LOWER_IS_BETTER

TABLE_COLUMNS = ["task", "metric", "arm", "head", "mean", "standard_error"]
TABLE_COLUMNS += ["difference_to_rfm", "difference_standard_error", "p_value", "lower_is_better"]
TABLE_COLUMNS += ["bootstrap_error", "bootstrap_better", "difference_to_embedding", "p_value_to_embedding"]
_RANKING = ("map", "precision_at_1", "success_at_5", "ndcg_at_3")
_METRICS: tuple[str, ...] = ("auroc", "average_precision", "rmse", "mae", "spearman", "high_value_auroc")
_METRICS += tuple(f"{metric}_{which}" for which in ("all", "new") for metric in _RANKING)
_HEADS = ("best", "logistic", "ridge", "lightgbm", "median")
OWN_ARMS = (RULE, *ARMS, EASE)
"""All others are ablated vectors."""
BOOTSTRAP = (BOOTSTRAP_ERROR, BOOTSTRAP_BETTER)


def score_table(scores: pd.DataFrame) -> pd.DataFrame:
    """TASK_SCORES of one as_of and model -> TABLE_COLUMNS; the difference is to rfm with the same head.

    Where a lower score is better, a difference below zero is an advantage.

    Standard errors are Nadeau and Bengio's (2003), corrected for training and test sets that overlap between splits;
    p is of a two-sided t test that the difference is zero. All are NaN for a single split. bootstrap_error is the
    standard error of the difference over resampled customers, bootstrap_better the share of the resamples in which the
    arm is better than rfm; NaN where a metric has none. The last two columns are of ablated vectors alone.
    """
    rows = []
    ablated = sorted(set(scores["arm"]) - {*OWN_ARMS, CUSTOMERS})
    for task, of_task in scores.groupby("task", sort=True):
        sizes = of_task[of_task["arm"] == CUSTOMERS].groupby("metric")["value"].mean()
        test_to_train = sizes["num_test"] / sizes["num_train"]
        splits = of_task.pivot_table(index="split", columns=["metric", "arm", "head"], values="value")
        found = [
            (metric, head, arm)
            for metric in [*_METRICS, *_of_few_labels(scores)]
            for head in _HEADS
            for arm in [*OWN_ARMS, *ablated]
            if (metric, arm, head) in splits.columns
        ]
        for metric, head, arm in found:
            values = splits[metric, arm, head].to_numpy()
            line = [task, metric, arm, head, values.mean(), corrected_error(values, test_to_train)]
            is_lower_better = metric.split(".")[0] in LOWER_IS_BETTER
            if arm == RFM:
                rows.append([*line, np.nan, np.nan, np.nan, is_lower_better, *[np.nan] * 4])
                continue
            differences = values - splits[metric, RFM, head].to_numpy()
            error = corrected_error(differences, test_to_train)
            p = p_value(differences.mean(), error, len(differences))
            resampled = [_of_first_split(splits, f"{name}.{metric}", arm, head) for name in BOOTSTRAP]
            lost = [np.nan, np.nan]
            if arm in ablated:
                differences_to_whole = values - splits[metric, EMBEDDING, head].to_numpy()
                error_to_whole = corrected_error(differences_to_whole, test_to_train)
                mean = differences_to_whole.mean()
                lost = [mean, p_value(mean, error_to_whole, len(values))]
            rows.append([*line, differences.mean(), error, p, is_lower_better, *resampled, *lost])
    return pd.DataFrame(rows, columns=TABLE_COLUMNS)


def _of_few_labels(scores: pd.DataFrame) -> list[str]:
    """`auroc.50_labels`, `auroc.100_labels`, ...: by metric, then by number."""
    found = {name for name in scores["metric"].unique() if name.endswith(f"_{LABELS}")}
    return sorted(found, key=lambda name: (_METRICS.index(name.split(".")[0]), int(name.split(".")[1].split("_")[0])))


def _of_first_split(splits: pd.DataFrame, metric: str, arm: str, head: str) -> float:
    return float(splits[metric, arm, head].to_numpy()[0]) if (metric, arm, head) in splits.columns else float("nan")


def corrected_error(values: Array, test_to_train: float) -> float:
    """Standard error of the mean over splits: sqrt((1 / n + n_test / n_train) * variance)."""
    if len(values) < 2:
        return float("nan")
    return float(np.sqrt((1 / len(values) + test_to_train) * np.var(values, ddof=1)))


def p_value(mean: float, error: float, num_splits: int) -> float:
    """Two-sided, Student's t with one degree of freedom less than splits; 1 where the differences are all zero."""
    if np.isnan(error):
        return float("nan")
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * student.sf(abs(mean) / error, num_splits - 1))
