"""What the user sees: a line a step, a bar while a model trains, and what to do with the result."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from caspr_spark.pretrain.job import EpochRecord
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDINGS

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

_METRIC_NAMES = {
    "auroc": "AUROC",
    "average_precision": "PR-AUC",
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman": "Spearman",
    "map_all": "MAP",
    "precision_at_1_all": "P@1",
    "map_new": "MAP, new",
}
"""Those that the terminal shows; the report has all."""
WAITING_SHARE_TO_TELL = 0.05


def shown_step(name: str, step: Callable[[], Summary]) -> Summary:
    """Run a step under a spinner, then print its line: rows in, rows out, seconds, and its notes."""
    started = time.monotonic()
    with console.status(f"{name} …") if console.is_terminal else nullcontext():
        summary = step()
    seconds = time.monotonic() - started
    rows = f"{summary.rows_in:>12,} in → {summary.rows_out:>10,} out"
    state = f"{seconds:>7.1f} s" if summary.changed else f"{seconds:>7.1f} s  unchanged"
    console.print(f"[bold]{name:<10}[/bold]{rows} {state}", markup=True)
    for note in summary.notes:
        colour = "yellow" if note.startswith("warning") else "dim"
        console.print(f"           [{colour}]{escape(note)}[/{colour}]")
    return summary


class TrainingBar:
    """A line an epoch, and under them a bar where there is a terminal to draw on."""

    def __init__(self, max_epochs: int) -> None:
        self._max_epochs = max_epochs
        self._bar: Progress | None = None
        self._seconds: list[float] = []

    def __call__(self, record: EpochRecord) -> None:
        self._seconds.append(record.seconds)
        left = (self._max_epochs - record.epoch) * sum(self._seconds) / len(self._seconds)
        told = Text("           " + epoch_line(record, max_epochs=self._max_epochs, seconds_left=left), style="dim")
        if not console.is_terminal:
            console.print(told)
            return
        if self._bar is None:
            columns = (
                SpinnerColumn(),
                TextColumn("epoch {task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("{task.fields[loss]}"),
            )
            self._bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
            self._bar.add_task("", total=self._max_epochs, loss="")
            self._bar.start()
        self._bar.console.print(told)
        self._bar.update(self._bar.task_ids[0], completed=record.epoch, loss=f"loss {record.judged_loss:.3f}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def epoch_line(record: EpochRecord, *, max_epochs: int, seconds_left: float) -> str:
    """What an epoch came to. Losses are relative: 1 is the best constant guess."""
    parts = ", ".join(f"{name} {loss:.3f}" for name, loss in record.validation_by_attribute.items())
    line = f"epoch {record.epoch}/{max_epochs}: loss {record.judged_loss:.3f}{' *' if record.is_best else ''}"
    line += f" ({parts})" if parts else ""
    line += f", {record.rows / max(record.seconds, 1e-9):,.0f} customers/s"
    if record.waiting_share >= WAITING_SHARE_TO_TELL:
        line += f", {record.waiting_share:.0%} of the time waiting for data"
    return line + (f", {seconds_left:,.0f} s left at most" if seconds_left else "")


def shown_scores(table: pd.DataFrame) -> Table:
    """The evaluation (`score_table`) for the terminal: the head chosen on validation, each arm against RFM.

    ±: standard error of the difference. better: the share of 1,000 resamples of the customers in which the arm is
    better than rfm. It fits into 80 columns.
    """
    title = "Evaluation: paired differences over random splits"
    shown = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("task", "metric", "arm"):
        shown.add_column(heading, no_wrap=True)
    for heading in ("mean", "to rfm", "±", "p", "better"):
        shown.add_column(heading, no_wrap=True, justify="right")
    for line in table[(table["head"] == "best") & table["metric"].isin(list(_METRIC_NAMES))].to_dict("records"):
        decimals = 4 if abs(line["mean"]) < 10 else 2  # shares, or an amount in its own unit
        numbers = [f"{line['mean']:.{decimals}f}"]
        if line["arm"] != "rfm":
            numbers += [
                f"{line['difference_to_rfm']:+.{decimals}f}",
                f"{line['difference_standard_error']:.{decimals}f}",
                f"{line['p_value']:.3f}",
                "" if math.isnan(line["bootstrap_better"]) else f"{line['bootstrap_better']:.0%}",
            ]
        shown.add_row(line["task"], _METRIC_NAMES[line["metric"]], line["arm"], *numbers)
    return shown


def shown_table(title: str, rows: pd.DataFrame) -> Table:
    """A table of text and numbers for the terminal."""
    shown = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    for name in rows.columns:
        shown.add_column(str(name), no_wrap=True, justify="right" if rows[name].dtype.kind in "if" else "left")
    for values in rows.itertuples(index=False):
        shown.add_row(*[f"{value:,}" if isinstance(value, int | float) else escape(str(value)) for value in values])
    return shown


def reading_commands(root: str) -> str:
    """Three commands that read the feature table: with DuckDB, Polars and Spark."""
    path = f"{root.rstrip('/')}/{CUSTOMER_EMBEDDINGS.name}"
    python = _shown_python()
    # Not to_pyarrow_dataset: DuckDB may leave a scan of it unfinished, and then Python crashes when it ends.
    return "\n".join(
        [
            "Read the feature table:",
            f"""  {python} -c "import duckdb, deltalake; t = deltalake.DeltaTable('{path}').to_pyarrow_table(); """
            """print(duckdb.sql('select customer_id, num_events, last_event_time, embedding[1:4] from t limit 5'))\"""",
            f"""  {python} -c "import polars; print(polars.read_delta('{path}').head())\"""",
            f"""  {python} -c "from caspr_spark.session import spark_session; """
            f"""spark_session('read', {{}}).read.format('delta').load('{path}').show(5)\"""",
        ]
    )


def _shown_python() -> str:
    """The interpreter as a user would type it: relative where it lies below the working directory."""
    python = Path(sys.executable)
    return str(python.relative_to(Path.cwd())) if python.is_relative_to(Path.cwd()) else str(python)
