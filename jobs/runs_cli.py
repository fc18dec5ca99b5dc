"""Verbs of `caspr-spark` that run several steps, or are about runs and what they leave in a root."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from caspr_spark import __version__
from caspr_spark.config_file import load_config
from caspr_spark.lease import lease
from jobs.console import TrainingBar, console, reading_commands, shown_scores, shown_step, shown_table
from jobs.options import AsOf, AsOfs, ConfigPaths, parsed_as_of, refresh_times
from jobs.running import raise_problems, run_one_step, session
from pipelines.summary import Summary


def full_build(config: ConfigPaths, as_of: AsOfs) -> None:
    """All steps: train before the first --as-of, publish as of each, evaluate and report the last."""
    from caspr_spark.evaluate.significance import score_table
    from pipelines.evaluate_embeddings import task_score_table
    from pipelines.full_build import full_build as build
    from pipelines.write_report import report_file

    times, settings = sorted({parsed_as_of(text) for text in as_of}), load_config(config)
    bar = TrainingBar(settings.pretrain.max_epochs)
    console.print(f"[bold]{settings.dataset}[/bold]: caspr-spark {__version__}, tables in {settings.root}")

    def step_with_bar(name: str, step: Callable[[], Summary]) -> Summary:
        with closing(bar):
            return shown_step(name, step)

    with session(settings, "full_build") as spark:
        summaries = build(spark, settings, times, run_step=step_with_bar, training_progress=bar)
        scores = task_score_table(spark, settings, times[-1])
    if not any(summary.changed for summary in summaries):
        console.print("Nothing changed: the raw tables and the configuration are as they were.")
    if len(scores):
        console.print(shown_scores(score_table(scores)))
    console.print(f"Report: {report_file(settings.root, times[-1])}")
    console.print(escape(reading_commands(settings.root)))
    raise_problems(summaries)


def retrain(config: ConfigPaths, as_of: AsOf) -> None:
    """Train a challenger on the events before a time and score it beside the champion. Refreshes go on meanwhile."""
    from pipelines.retrain import retrain as build

    time, settings = parsed_as_of(as_of), load_config(config)
    bar = TrainingBar(settings.pretrain.max_epochs)
    root_alone = ExitStack()

    def step_in_turn(name: str, step: Callable[[], Summary]) -> Summary:
        """The training has a lock of its own and takes long; it leaves the root to others, all other steps do not."""
        if name != "pretrain":
            return shown_step(name, step)
        root_alone.close()
        with closing(bar):
            summary = shown_step(name, step)
        root_alone.enter_context(lease(settings.root, wait_seconds=settings.refresh.wait_seconds))
        return summary

    with root_alone, session(settings, "retrain", writes=False) as spark:
        root_alone.enter_context(lease(settings.root, wait_seconds=settings.refresh.wait_seconds))
        summaries = build(spark, settings, time, run_step=step_in_turn, training_progress=bar)
    raise_problems(summaries)


def refresh(
    config: ConfigPaths,
    as_of: Annotated[
        list[str] | None, typer.Option("--as-of", help="As above; several are refreshed one after another.")
    ] = None,
    every_hours: Annotated[
        int | None,
        typer.Option(
            help="Instead of --as-of, for a scheduler that cannot pass it: the end of the newest whole interval of so "
            "many hours since midnight UTC, by this machine's clock."
        ),
    ] = None,
    compare_all: Annotated[
        bool, typer.Option("--compare-all", help="Read every customer's raw rows again and make every vector again.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write the HTML report of the last --as-of.")] = True,
) -> None:
    """What arrived since the last run -> new vectors of the customers that it touches. Schedule this one."""
    from pipelines.refresh import refresh as step
    from pipelines.write_report import report_file, write_report

    times, settings = refresh_times(as_of or [], every_hours, now=datetime.now(UTC)), load_config(config)
    with session(settings, "refresh") as spark:
        summaries = []
        for time in times:
            console.print(f"[bold]{settings.dataset}[/bold]: refresh as of {time:%Y-%m-%d %H:%M:%S} UTC")
            summaries += step(spark, settings, time, compare_all=compare_all, run_step=shown_step)
        changed = any(summary.changed for summary in summaries)
        if report and changed:
            shown_step("report", lambda: write_report(spark, settings, times[-1]))
    if not changed:
        console.print("Nothing to do: nothing arrived, and no vector is due.")
    elif report:
        console.print(f"Report: {report_file(settings.root, times[-1])}")
    raise_problems(summaries)


def backfill(
    config: ConfigPaths,
    from_: Annotated[str, typer.Option("--from", help="First --as-of.")],
    to: Annotated[str, typer.Option("--to", help="Last --as-of, inclusive.")],
    every_hours: Annotated[int, typer.Option(min=1, help="Hours between one as-of and the next.")] = 24,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which intervals are missing.")] = False,
) -> None:
    """Refresh the missing intervals between two times; finished ones are passed over."""
    from pipelines.backfill import missing_intervals
    from pipelines.refresh import refresh as step

    settings = load_config(config)
    first, last = parsed_as_of(from_, "--from"), parsed_as_of(to, "--to")
    with session(settings, "backfill") as spark:
        missing = missing_intervals(spark, settings, first, last, every=timedelta(hours=every_hours))
        console.print(f"{len(missing)} intervals are missing" + (":" if missing else ": nothing to do"))
        summaries = []
        for time in missing:
            console.print(f"  as of {time:%Y-%m-%dT%H:%M:%SZ}")
            if not dry_run:
                summaries += step(spark, settings, time, run_step=shown_step)
    raise_problems(summaries)


def maintain(config: ConfigPaths) -> None:
    """Join small files, remove what no table needs any more, let old sequences go. Schedule it once a day."""
    from pipelines.maintain import maintain as step

    settings = load_config(config)
    with session(settings, "maintain") as spark:
        shown_step("maintain", lambda: step(spark, settings))


def plan_refresh(config: ConfigPaths, as_of: AsOf) -> None:
    """What a refresh would do: what arrived, and whom it touches. Nothing is written."""
    from pipelines.plan_refresh import plan_refresh as step

    run_one_step("plan", config, as_of, step, writes=False)


def runs(
    config: ConfigPaths,
    run_id: Annotated[str | None, typer.Argument(help="Show this run with its numbers; default: list all.")] = None,
) -> None:
    """The published runs, newest first, or one of them."""
    from pipelines.published_runs import run_numbers, run_table

    settings = load_config(config)
    with session(settings, "runs", writes=False) as spark:
        if run_id is None:
            console.print(shown_table(f"Runs in {settings.root}", run_table(spark, settings)))
        else:
            console.print(shown_table(run_id, run_numbers(spark, settings, run_id)))
