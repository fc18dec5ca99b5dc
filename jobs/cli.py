"""The `caspr-spark` command. A job in this folder is one of its verbs, for spark-submit."""

import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pyspark.sql import SparkSession
from rich.markup import escape

from caspr_spark import __version__
from caspr_spark.aliases import known_model
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.erase.requests import checked_request_id, read_ids
from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.lease import lease
from caspr_spark.simulate.bank.faults import FAULT_DESCRIPTIONS
from jobs.console import TrainingBar, console, errors, reading_commands, shown_scores, shown_step, shown_table
from jobs.models_cli import models
from jobs.options import AsOf, AsOfs, ConfigPaths, Model, parsed_as_of, refresh_times
from jobs.rejected_cli import rejected
from jobs.running import raise_problems, run_one_step, run_step_of_model, session
from pipelines.summary import Summary

app = typer.Typer(
    name="caspr-spark",
    help="Raw customer tables to customer embeddings. Each verb is a step; full-build runs them all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(models)
app.add_typer(rejected)


class Export(StrEnum):
    """What `export` can write."""

    feast = "feast"
    databricks = "databricks"
    ddl = "ddl"


class Trained(StrEnum):
    """What `finetune` can train."""

    head = "head"
    encoder = "encoder"


class Erasure(StrEnum):
    """What `erase` can do beside erasing."""

    verify = "verify"


@app.command()
def build_events(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 1: raw tables -> events, profiles and rejected rows."""
    from pipelines.build_events import build_events as step

    run_one_step("events", config, as_of, step)


@app.command()
def build_sequences(
    config: ConfigPaths,
    as_of: AsOf,
    fit_vocabulary: Annotated[
        bool | None,
        typer.Option(help="Grow the vocabulary and fit the scaling first. Default: only if there are none."),
    ] = None,
) -> None:
    """Step 2: events -> sequences, vocabulary and scaling."""
    from pipelines.build_sequences import build_sequences as step

    run_one_step(
        "sequences",
        config,
        as_of,
        lambda spark, settings, time: step(spark, settings, time, fit_vocabulary=fit_vocabulary),
    )


@app.command()
def pretrain_model(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 3: sequences -> checkpoint."""
    from pipelines.pretrain_model import pretrain_model as step

    def with_bar(spark: SparkSession, settings: Config, time: datetime) -> Summary:
        with closing(TrainingBar(settings.pretrain.max_epochs)) as bar:
            return step(spark, settings, time, progress=bar)

    run_one_step(
        "pretrain", config, as_of, with_bar, writes=False
    )  # it has a lock of its own, and refreshes go on meanwhile


@app.command()
def finetune(
    config: ConfigPaths,
    as_of: AsOf,
    labels: Annotated[
        Path, typer.Option(help="CSV or Parquet: customer_id, label (0 and 1, or amounts) and, if wanted, as_of.")
    ],
    name: Annotated[str, typer.Option(help="Of the folder below <root>/finetuned.")],
    model: Model = "champion",
    train: Annotated[Trained, typer.Option(help="The head alone, or the encoder with it.")] = Trained.head,
) -> None:
    """Sequences, a pretrained model and labels -> a model for that one task, and what it is worth."""
    from pipelines.finetune import finetune as step

    def with_bar(spark: SparkSession, settings: Config, time: datetime) -> Summary:
        with closing(TrainingBar(settings.finetune.max_epochs)) as bar:
            return step(
                spark,
                settings,
                time,
                labels=labels,
                name=name,
                model_version=known_model(settings.root, model),
                train=train.value,
                progress=bar,
            )

    run_one_step("finetune", config, as_of, with_bar, writes=False)  # the training's own lock, as of pretrain-model


@app.command()
def embed_customers(config: ConfigPaths, as_of: AsOf, model: Model = "champion") -> None:
    """Step 4: sequences and a checkpoint -> embeddings."""
    from pipelines.embed_customers import embed_customers as step

    run_step_of_model("embed", config, as_of, model, step)


@app.command()
def publish_embeddings(config: ConfigPaths, as_of: AsOf, model: Model = "champion") -> None:
    """Step 5: embeddings -> the feature table and its history."""
    from pipelines.publish_embeddings import publish_embeddings as step

    run_step_of_model("publish", config, as_of, model, step)


@app.command()
def monitor_embeddings(config: ConfigPaths, as_of: AsOf, model: Model = "champion") -> None:
    """Step 6: counts, coverage, and how far the vectors moved."""
    from pipelines.monitor_embeddings import monitor_embeddings as step

    run_step_of_model("monitor", config, as_of, model, step)


@app.command()
def evaluate_embeddings(config: ConfigPaths, as_of: AsOf, model: Model = "champion") -> None:
    """Step 7: the embedding against hand-made features on the declared tasks."""
    from pipelines.evaluate_embeddings import evaluate_embeddings as step

    run_step_of_model("evaluate", config, as_of, model, step)


@app.command()
def write_report(config: ConfigPaths, as_of: AsOf) -> None:
    """The HTML report of the run as of a time."""
    from pipelines.write_report import write_report as step

    run_one_step("report", config, as_of, step)


@app.command("explore")
def explore_embeddings(
    config: ConfigPaths,
    as_of: AsOf,
    model: Model = "champion",
    segments: Annotated[int, typer.Option(min=2, help="Segments to find.")] = 8,
    customers: Annotated[
        Path | None,
        typer.Option(help="Show whom these resemble: one customer_id a line, exactly; .jsonl: as JSON."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; default: in <root>/report. It names customers.")
    ] = None,
) -> None:
    """A page about a run's vectors: map, segments, look-alikes, and what of the profiles can be read."""
    from pipelines.explore_embeddings import exploration_file
    from pipelines.explore_embeddings import explore_embeddings as step

    settings, time = load_config(config), parsed_as_of(as_of)
    listed = None if customers is None else read_ids(customers, "--customers")
    with session(settings, "explore", writes=out is None) as spark:
        model_version = known_model(settings.root, model)
        place = out or exploration_file(settings.root, time, model_version)
        shown_step(
            "explore",
            lambda: step(
                spark, settings, time, model_version=model_version, num_segments=segments, customers=listed, out=place
            ),
        )
    console.print(escape(f"Page: {place}"))


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def maintain(config: ConfigPaths) -> None:
    """Join small files, remove what no table needs any more, let old sequences go. Schedule it once a day."""
    from pipelines.maintain import maintain as step

    settings = load_config(config)
    with session(settings, "maintain") as spark:
        shown_step("maintain", lambda: step(spark, settings))


@app.command()
def plan_refresh(config: ConfigPaths, as_of: AsOf) -> None:
    """What a refresh would do: what arrived, and whom it touches. Nothing is written."""
    from pipelines.plan_refresh import plan_refresh as step

    run_one_step("plan", config, as_of, step, writes=False)


@app.command()
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


@app.command()
def erase(
    config: ConfigPaths,
    ids_file: Annotated[
        Path, typer.Option("--ids-file", help="The customers: one customer_id a line, exactly; .jsonl: as JSON.")
    ],
    action: Annotated[Erasure | None, typer.Argument(help="verify: erase nothing, prove that it was done.")] = None,
    verified_id: Annotated[str | None, typer.Argument(metavar="REQUEST_ID", help="The request to verify.")] = None,
    request_id: Annotated[str | None, typer.Option("--request-id", help="The name of a request to erase.")] = None,
) -> None:
    """Customers leave every table and file below the root and do not come back; `erase verify` proves it."""
    from pipelines.erase import erase as step
    from pipelines.erase import verified

    settings, ids = load_config(config), read_ids(ids_file)
    if (verified_id is None) == (request_id is None) or (action is None) != (verified_id is None):
        raise ConfigError("erase: give --request-id ID to erase, or `verify ID` to verify")
    if verified_id is not None:
        name = checked_request_id(verified_id)
        with lease(settings.root, wait_seconds=settings.refresh.wait_seconds):
            console.print(escape(verified(settings.root, ids, name)))
        return
    name = checked_request_id(request_id or "")
    with session(settings, "erase", finishes_erasure=True) as spark:
        shown_step("erase", lambda: step(spark, settings, ids, name, now=datetime.now(UTC)))


@app.command()
def export(
    config: ConfigPaths,
    kind: Annotated[Export, typer.Argument(help="feast, databricks or ddl.")],
    schema: Annotated[str, typer.Option(help="Schema (or catalog.schema) of the SQL statements.")] = "features",
    existing: Annotated[bool, typer.Option("--existing", help="SQL for tables that are there already.")] = False,
) -> None:
    """Definitions of the published tables, for a feature store or a catalogue, on standard output."""
    from caspr_spark.publish.definitions import databricks_sql, delta_ddl, feast_definition

    root = str(Path(load_config(config).root).absolute())
    if kind is Export.feast:
        print(feast_definition(root))
    elif kind is Export.databricks:
        print(databricks_sql(root, schema=schema, existing=existing))
    else:
        print(delta_ddl(root, schema=schema, existing=existing))


@app.command()
def simulate_bank(
    config: ConfigPaths,
    out: Annotated[Path, typer.Option(help="Folder of the raw files; a bank that is there goes on.")],
    customers: Annotated[int, typer.Option(min=1)] = 1000,
    start: Annotated[str, typer.Option(help="Start of the first batch, with a zone.")] = "2024-01-01T00:00:00Z",
    batches: Annotated[int, typer.Option(min=1, help="Batches there are in the end.")] = 30,
    hours: Annotated[int, typer.Option(min=1, help="Hours of a batch.")] = 24,
    seed: Annotated[int, typer.Option()] = 1,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help=f"NAME[.TABLE][=BATCHES[:STRENGTH]], see docs/simulator.md: {', '.join(FAULT_DESCRIPTIONS)}."
        ),
    ] = None,
) -> None:
    """Raw files of an invented bank, batch by batch, from a seed. All of it is synthetic."""
    from pipelines.simulate_bank import simulate_bank as step

    time = parsed_as_of(start, "--start")
    settings = load_config(config)
    with session(settings, "simulate", writes=False) as spark:
        shown_step(
            "simulate",
            lambda: step(
                spark,
                out,
                num_customers=customers,
                start=time,
                num_batches=batches,
                hours=hours,
                seed=seed,
                faults=fault or [],
            ),
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a failure that the user can mend is one message, and its kind is the exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(args=arguments, standalone_mode=True)
    except CasprError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        errors.print("[red]error:[/red] unexpected; please report it with what follows")
        errors.print(escape(traceback.format_exc()))
        sys.exit(1)


def run_job(verb: str) -> None:
    """What a file of this folder does under spark-submit: one verb, with the job's own arguments."""
    main([verb, *sys.argv[1:]])


def _terminate(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)


if __name__ == "__main__":
    main()
