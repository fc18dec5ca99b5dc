"""The report's pictures, each a data URI: small tables in, SVG out (PNG for the map). The same table, the same bytes.

Colours are those of Okabe and Ito, and cividis, which colour-blind readers can tell apart.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from caspr_spark.monitor.sketch import DISTANCE_BINS_A_DECADE, DISTANCE_EDGES

BLUE, ORANGE, GREEN, PURPLE, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"
SEGMENT_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#56B4E9", "#F0E442", "#000000")
INK, FAINT = "#333f48", "#9aa5b1"
WIDTH, HALF = 9.4, 5.2  # inches: a picture as wide as the page, or one of two side by side
_WEEKLY_FROM_DAYS = 120
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": "#e4e7eb",
    "legend.frameon": False,
    "svg.hashsalt": "caspr-spark",  # element ids that do not change from run to run
}


def events_over_time(daily: pd.DataFrame, *, as_of: datetime) -> str:
    """source, event_date, num_events -> one panel a source; what lies after `as_of`, which nobody saw, is pale."""
    dates = pd.to_datetime(daily["event_date"])
    weekly = (dates.max() - dates.min()).days > _WEEKLY_FROM_DAYS
    cut = pd.Timestamp(as_of).tz_localize(None)
    # Weeks begin at the weekday and hour of as_of, so that no bar is on both sides of it.
    step = pd.Timedelta(days=7 if weekly else 1)
    begin = cut + ((dates - cut) // step) * step
    counts = daily.assign(begin=begin).groupby(["source", "begin"])["num_events"].sum()
    sources = sorted(daily["source"].unique(), key=lambda source: -int(counts[source].sum()))
    with _figure(height=0.7 + 1.35 * len(sources)) as figure:
        axes = figure.subplots(len(sources), 1, sharex=True, squeeze=False)[:, 0]
        for axis, source in zip(axes, sources, strict=True):
            bars = counts[source]
            seen = bars.index < cut
            axis.bar(bars.index[seen], bars[seen], width=step * 0.85, align="edge", color=BLUE)
            axis.bar(bars.index[~seen], bars[~seen], width=step * 0.85, align="edge", color="#c3d4e0")
            axis.axvline(cut, color=RED, linewidth=1.2, linestyle=(0, (4, 2)))
            axis.set_title(source)
            axis.set_ylabel(f"events a {'week' if weekly else 'day'}")
            _counts_on(axis)
        axes[0].annotate(
            f"as of {as_of:%Y-%m-%d} ",
            (cut, 1.0),
            xycoords=("data", "axes fraction"),
            ha="right",
            va="bottom",
            color=RED,
        )
        locator = mdates.AutoDateLocator(minticks=4, maxticks=12)  # type: ignore[no-untyped-call]
        axes[-1].xaxis.set_major_locator(locator)
        formatter = mdates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        axes[-1].xaxis.set_major_formatter(formatter)
        return _svg(figure)


def sequence_lengths(lengths: pd.Series, *, max_events: int) -> str:
    """Events in each customer's sequence -> histogram with bars of equal width, the last of which ends at the limit."""
    edges = np.arange(max_events + 0.5, 0.5 - (width := -(-max_events // 40)), -width)[::-1]
    with _figure(height=3.0, width=HALF) as figure:
        axis = figure.subplots()
        axis.hist(lengths, bins=[*edges], color=BLUE, rwidth=0.88)
        axis.set_xlabel(f"events in a customer's sequence (newest {max_events} are kept)")
        axis.set_ylabel("customers")
        axis.axvline(float(lengths.median()), color=RED, linewidth=1.2, linestyle=(0, (4, 2)))
        axis.set_title(f"median {lengths.median():g}, at the limit {np.mean(lengths >= max_events):.0%} of customers")
        _counts_on(axis)
        return _svg(figure)


def training_curve(curve: pd.DataFrame) -> str:
    """epoch, training_loss, validation_loss -> two lines and the epoch whose weights were kept."""
    lines = {"training_loss": ("training", BLUE), "validation_loss": ("held-out customers", ORANGE)}
    judged = "validation_loss" if curve["validation_loss"].notna().any() else "training_loss"
    best = curve.sort_values([judged, "epoch"]).iloc[0]
    with _figure(height=3.0, width=HALF) as figure:
        axis = figure.subplots()
        for column, (label, colour) in lines.items():
            axis.plot(curve["epoch"], curve[column], color=colour, marker=".", label=label)
        axis.plot(best["epoch"], best[judged], "o", color=RED, markersize=8, fillstyle="none")
        axis.set_title(f"best loss of {lines[judged][0]} {best[judged]:.4f}, epoch {int(best['epoch'])}")
        axis.set_xlabel("epoch")
        axis.set_xlim(0.5, float(curve["epoch"].max()) + 0.5)
        axis.set_ylabel("loss (1 = best constant guess)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(axis="y")
        axis.legend()
        return _svg(figure)


def customer_map(
    places: NDArray[np.float64], *, money: NDArray[np.float64], money_name: str, recency_days: NDArray[np.float64]
) -> str:
    """2-D places of customers, coloured by money (or whatever `money_name` says) and by recency."""
    panels = [(f"coloured by {money_name}", money, "cividis", f"{money_name} in the sequence")]
    panels.append(("coloured by recency", recency_days, "cividis_r", "days since the last event"))
    order = np.random.default_rng(0).permutation(len(places))  # so that no part of the scale hides another
    with _figure(height=3.9, width=WIDTH * 1.05) as figure:
        for axis, (title, values, colours, label) in zip(figure.subplots(1, 2), panels, strict=True):
            points = axis.scatter(
                *places[order].T, c=_positive(values)[order], norm=_scale(values), cmap=colours, s=7, linewidths=0
            )
            axis.set(title=title, xticks=[], yticks=[])
            axis.spines[["left", "bottom"]].set_visible(False)
            bar = figure.colorbar(points, ax=axis, label=label, shrink=0.85, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        return _png(figure)


def segment_map(places: NDArray[np.float64], *, segments: NDArray[np.int64]) -> str:
    """2-D places of customers, coloured by segment (from 1 on), with its number in the middle of each."""
    in_turn = SEGMENT_COLOURS if segments.max() <= len(SEGMENT_COLOURS) else [*map(colormaps["tab20"], range(20))]
    colours = [in_turn[(segment - 1) % len(in_turn)] for segment in segments]
    order = np.random.default_rng(0).permutation(len(places))  # so that no segment hides another
    with _figure(height=6.2, width=WIDTH * 0.85) as figure:
        axis = figure.subplots()
        axis.scatter(places[order, 0], places[order, 1], c=[colours[place] for place in order], s=9, linewidths=0)
        for segment in np.unique(segments):
            x, y = np.median(places[segments == segment], axis=0)
            box = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": INK, "alpha": 0.9}
            axis.text(x, y, str(segment), bbox=box, ha="center", va="center", fontsize=11, fontweight="bold")
        axis.set(xticks=[], yticks=[])
        axis.spines[["left", "bottom"]].set_visible(False)
        return _png(figure)


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """For a logarithmic scale: what is not positive is drawn like the smallest positive value."""
    positive = values[values > 0]
    return np.maximum(values, positive.min() if len(positive) else 1.0)


def _scale(values: NDArray[np.float64]) -> Normalize:
    low, high = np.quantile(_positive(values), [0.01, 0.99])
    return LogNorm(low, high) if high > low > 0 else Normalize(0, 1)


def roc_curves(curves: Mapping[str, Sequence[float]], *, auroc: Mapping[str, float]) -> str:
    """Arm -> true positive rates at even steps of the false positive rate, means over the splits."""
    colours = {"rfm": INK, "embedding": ORANGE, "both": GREEN, "fused": BLUE}
    with _figure(height=3.9, width=4.6) as figure:
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 2)))
        for arm, rates in curves.items():
            label = f"{arm} ({auroc[arm]:.3f})"
            axis.plot(np.linspace(0, 1, len(rates)), rates, color=colours.get(arm, PURPLE), label=label, linewidth=1.6)
        axis.set(
            xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.005), aspect="equal"
        )
        axis.grid()
        axis.legend(loc="lower right", title="area under the curve")
        return _svg(figure)


def score_differences(found: pd.DataFrame) -> str:
    """task, metric, arm, advantage, error (how much better than hand-made features) -> a panel a task and metric.

    Bars are one standard error to either side.
    """
    colours = {"embedding": ORANGE, "both": GREEN, "fused": BLUE}
    panels = list(found.groupby(["task", "metric"], sort=False))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(height=0.35 + 1.45 * rows) as figure:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, ((task, metric), of_panel) in zip(axes, panels, strict=False):
            for place, row in enumerate(of_panel.itertuples()):
                colour = colours.get(str(row.arm), PURPLE)
                axis.errorbar(row.advantage, -place, xerr=row.error, color=colour, marker="o", capsize=3)
            axis.axvline(0, color=INK, linewidth=1)
            axis.set_yticks([-place for place in range(len(of_panel))], of_panel["arm"])
            axis.set_ylim(0.6 - len(of_panel), 0.6)
            axis.set_title(f"{task}: {metric}")
            axis.xaxis.set_major_locator(MaxNLocator(nbins=3))
            axis.grid(axis="x")
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel("better than hand-made features by", fontsize=9.5)
        return _svg(figure)


def learning_curves(found: pd.DataFrame) -> str:
    """task, metric, arm, labels (inf: all), mean, error -> a panel a task and metric, a line an arm."""
    colours = {"rfm": INK, "embedding": ORANGE, "fused": BLUE}
    panels = list(found.groupby(["task", "metric"], sort=False))
    with _figure(height=3.1) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, ((task, metric), of_panel) in zip(axes, panels, strict=True):
            counts = sorted(of_panel["labels"].unique())
            places = {count: place for place, count in enumerate(counts)}
            for offset, (arm, colour) in enumerate(colours.items()):
                line = of_panel[of_panel["arm"] == arm].sort_values("labels")
                x = [places[count] + 0.08 * (offset - 1) for count in line["labels"]]
                axis.errorbar(x, line["mean"], yerr=line["error"], color=colour, marker=".", capsize=2, label=arm)
            shown = [f"{count:g}" if count < 1000 else f"{count / 1000:g}k" for count in counts]
            axis.set_xticks(range(len(counts)), ["all" if label == "infk" else label for label in shown])
            axis.set_title(f"{task}: {metric}")
            axis.set_xlabel("labelled customers")
            axis.grid(axis="y")
        axes[0].legend()
        return _svg(figure)


def drift_histogram(found_B: NDArray[np.float64], usual_B: NDArray[np.float64] | None) -> str:
    """Customers by bin of the distance to their older vector, and how many the baseline has there, if there is one."""
    edges = np.concatenate([DISTANCE_EDGES[:1] / 10 ** (1 / DISTANCE_BINS_A_DECADE), DISTANCE_EDGES, [2.0]])
    told = np.flatnonzero(found_B if usual_B is None else found_B + usual_B)
    with _figure(height=2.8) as figure:
        axis = figure.subplots()
        axis.stairs(found_B, edges, fill=True, color=BLUE, alpha=0.75, label="this run")
        if usual_B is not None:
            axis.stairs(usual_B, edges, color=ORANGE, linewidth=1.8, label="earlier runs, same gaps and new events")
        axis.set_xscale("log")
        axis.set_xlim(edges[told[0]], edges[told[-1] + 1])
        axis.set_xlabel("cosine distance between a customer's newer and older vector")
        axis.set_ylabel("customers")
        axis.legend()
        _counts_on(axis)
        return _svg(figure)


def drift_scores(scores: pd.DataFrame) -> str:
    """as_of, name, ratio (score over limit), is_alert -> a line a name; a red ring around runs with any alert."""
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    with _figure(height=2.8) as figure:
        axis = figure.subplots()
        for colour, (name, of_name) in zip(colours, scores.groupby("name", sort=True), strict=False):
            axis.plot(of_name["as_of"], of_name["ratio"], color=colour, marker=".", linewidth=1.2, label=name)
        alerts = scores[scores["is_alert"]].groupby("as_of")["ratio"].max()
        axis.plot(alerts.index, alerts, "o", color=RED, markersize=9, fillstyle="none", label="run with an alert")
        for limit in (-1, 1):
            axis.axhline(limit, color=RED, linewidth=1.2, linestyle=(0, (4, 2)))
        axis.set_ylabel("score / limit")
        axis.grid(axis="y")
        axis.legend(fontsize=8)
        locator = mdates.AutoDateLocator(minticks=4, maxticks=12)  # type: ignore[no-untyped-call]
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        return _svg(figure)


def _counts_on(axis: Axes) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.grid(axis="y")
    axis.set_axisbelow(True)


@contextmanager
def _figure(*, height: float, width: float = WIDTH) -> Iterator[Figure]:
    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
