"""The lines of `make bench-quality` as a page for people: tables in Markdown, and pictures beside it."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from caspr_spark.evaluate.experiment import BOTH, EMBEDDING, FUSED, LABELS, RFM, RULE
from caspr_spark.evaluate.next_values import EASE
from caspr_spark.evaluate.questions import LOWER_IS_BETTER
from caspr_spark.evaluate.significance import OWN_ARMS
from caspr_spark.monitor.pictures import learning_curves, score_differences

PAGE = "quality.md"
HEADLINES = ("auroc", "average_precision", "rmse", "mae", "map_all", "precision_at_1_all", "map_new")
PICTURED = ("auroc", "rmse", "map_new")
LINEAR = ("logistic", "ridge", "best")
"""The linear head of a task; `best` where it has one head alone."""
Line = Mapping[Any, Any]


def write_quality_page(scores: Sequence[Line], costs: Sequence[Line], folder: Path, *, minutes: float) -> Path:
    """`quality.md` and its pictures in `folder`, from the lines of scores and of costs. Returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [
        "# What `make bench-quality` found",
        f"{minutes:.0f} minutes. ± is the standard error of a mean over splits whose test sets overlap (Nadeau and "
        "Bengio), p goes with it; *better* is the share of 1,000 resamples of the customers in which the arm is better "
        "than features made by hand. Lower is better for rmse and mae. The bank is simulated: SYNTHETIC.",
    ]
    table = pd.DataFrame(scores)
    for (dataset, cut), of_cut in table.groupby(["dataset", "cut"], sort=False):
        name = f"{dataset}_{str(cut).replace('-', '')}"
        text += [f"## {str(dataset).replace('_', ' ')}, as of {cut}", *_arms(of_cut)]
        text += _picture(folder, f"{name}_differences.svg", _differences(of_cut), score_differences)
        text += _others(of_cut, costs)
        curve = _curve(of_cut)
        text += _curve_table(curve)
        text += _picture(folder, f"{name}_labels.svg", curve, learning_curves)
    page = folder / PAGE
    page.write_text("\n\n".join(text) + "\n")
    return page


def _arms(of_cut: pd.DataFrame) -> list[str]:
    """The arms side by side, by the head that validation chose (mae: by the median)."""
    rows = []
    for (task, metric), found in of_cut.groupby(["task", "metric"], sort=False):
        if metric not in HEADLINES:
            continue
        head = "median" if metric == "mae" else "best"
        arms = {row["arm"]: row for row in found.to_dict("records") if row["head"] == head}
        means = [_number(arms[arm]["mean"], metric) if arm in arms else "" for arm in (RULE, EASE, RFM)]
        compared = [text for arm in (EMBEDDING, FUSED) for text in _compared(arms[arm], metric)]
        rows.append([f"{task}: {metric}", *means, *compared])
    header = ["", RULE, EASE, RFM, EMBEDDING, f"to {RFM}", "better", FUSED, f"to {RFM}", "better"]
    return [_table(header, rows)]


def _compared(row: Line, metric: str) -> list[str]:
    better = "" if _is_missing(row["bootstrap_better"]) else f"{row['bootstrap_better']:.0%}"
    difference, error, p = row["difference_to_rfm"], row["difference_standard_error"], row["p_value"]
    certain = "" if _is_missing(p) else f" (p {_p(p)})"
    return [_number(row["mean"], metric), f"{_signed(difference, metric)} ± {_number(error, metric)}{certain}", better]


def _others(of_cut: pd.DataFrame, costs: Sequence[Line]) -> list[str]:
    """Ablations and other recipes beside the embedding, by the linear head, with what their training took."""
    about = of_cut.iloc[0]
    seconds = {
        one["recipe"]: one["training_seconds"]
        for one in costs
        if (one["dataset"], one["cut"]) == (about["dataset"], about["cut"])
    }
    linear = of_cut[of_cut["metric"].isin(PICTURED)]
    first_head = linear.groupby("task")["head"].agg(lambda heads: next(head for head in LINEAR if head in set(heads)))
    linear = linear[linear["head"] == linear["task"].map(first_head)]
    names = list(dict.fromkeys(arm for arm in linear["arm"] if arm not in OWN_ARMS))
    if not names:
        return []
    columns = _pairs(linear)
    rows = []
    for arm in [EMBEDDING, *names]:
        cells = [f"{seconds[arm]:.0f}" if arm in seconds else ""]
        for task, metric in columns:
            of_arm = linear[(linear["arm"] == arm) & (linear["task"] == task) & (linear["metric"] == metric)]
            cells.append("".join(_lost(row) for row in of_arm.to_dict("records")))  # not every task has every arm
        rows.append([arm, *cells])
    note = "Linear heads. What the vector loses without a part of its input, and other recipes; p is of the difference "
    note += "to the embedding."
    header = ["", "training, s", *(f"{task}: {metric}" for task, metric in columns)]
    return [note, _table(header, rows)]


def _lost(row: Line) -> str:
    p = row["p_value_to_embedding"]
    return _number(row["mean"], row["metric"]) + ("" if _is_missing(p) else f" (p {_p(p)})")


def _curve(of_cut: pd.DataFrame) -> pd.DataFrame:
    """task, metric, arm, labels, mean, error of the linear head; labels is infinite where all are used."""
    rows = []
    for row in of_cut.to_dict("records"):
        metric, _, few = row["metric"].partition(".")
        is_linear = row["head"] in LINEAR[:2] and row["arm"] in (RFM, EMBEDDING, FUSED)
        if metric in ("auroc", "rmse") and is_linear:
            labels = float(few.removesuffix(f"_{LABELS}")) if few else np.inf
            rows.append([row["task"], metric, row["arm"], labels, row["mean"], row["standard_error"]])
    table = pd.DataFrame(rows, columns=["task", "metric", "arm", "labels", "mean", "error"])
    with_curve = table[np.isfinite(table["labels"])][["task", "metric"]].drop_duplicates()
    return table.merge(with_curve, on=["task", "metric"], how="inner")


def _curve_table(curve: pd.DataFrame) -> list[str]:
    if curve.empty:
        return []
    arms = (RFM, EMBEDDING, FUSED)
    columns = [(task, metric, arm) for task, metric in _pairs(curve) for arm in arms]
    means = {(one["task"], one["metric"], one["arm"], one["labels"]): one["mean"] for one in curve.to_dict("records")}
    rows = []
    for labels in sorted(curve["labels"].unique()):
        known = [means.get((*column, labels)) for column in columns]
        cells = [
            "" if mean is None else _number(mean, metric) for mean, (_, metric, _) in zip(known, columns, strict=True)
        ]
        rows.append(["all" if np.isinf(labels) else f"{labels:,.0f}", *cells])
    header = ["labelled customers", *(f"{task}: {metric}, {arm}" for task, metric, arm in columns)]
    return [_table(header, rows)]


def _differences(of_cut: pd.DataFrame) -> pd.DataFrame:
    """task, metric, arm, advantage and error, for the picture."""
    chosen = of_cut[(of_cut["head"] == "best") & of_cut["metric"].isin(PICTURED)]
    chosen = chosen[chosen["arm"].isin([EMBEDDING, BOTH, FUSED])]
    sign = np.where(chosen["metric"].isin(LOWER_IS_BETTER), -1.0, 1.0)
    return chosen.assign(
        advantage=chosen["difference_to_rfm"].astype(float) * sign,
        error=chosen["difference_standard_error"].astype(float),
    )


def _picture(folder: Path, name: str, table: pd.DataFrame, draw: Any) -> list[str]:
    if table.empty:
        return []
    (folder / name).write_bytes(base64.b64decode(draw(table).partition(",")[2]))
    return [f"![{name.removesuffix('.svg').replace('_', ' ')}]({name})"]


def _pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The tasks with their metrics, in order of first appearance."""
    return list(dict.fromkeys(zip(table["task"], table["metric"], strict=True)))


def _number(value: float, metric: str) -> str:
    return f"{value:.1f}" if metric in LOWER_IS_BETTER else f"{value:.3f}"


def _signed(value: float, metric: str) -> str:
    return ("+" if value >= 0 else "-") + _number(abs(value), metric)


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.2g}"


def _is_missing(value: float | None) -> bool:
    return value is None or bool(np.isnan(value))


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(header)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
