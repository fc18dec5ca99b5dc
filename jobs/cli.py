"""The `caspr-spark` command. A job in this folder is one of its verbs, for spark-submit."""

import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from pyspark.sql import SparkSession
from rich.markup import escape

from caspr_spark import __version__
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.session import spark_session
from jobs.console import TrainingBar, console, errors, reading_commands, shown_scores, shown_step
from pipelines.summary import Summary

app = typer.Typer(
    name="caspr-spark",
    help="Raw customer tables to customer embeddings. Each verb is a step; full-build runs them all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigPaths = Annotated[
    list[Path], typer.Option("--config", help="YAML laid over conf/base.yaml; may be given again, later ones win.")
]
AsOf = Annotated[
    str,
    typer.Option(
        "--as-of", help="End of the interval, exclusive, with a zone: 2017-10-02T00:00:00Z. Later events are not seen."
    ),
]
AsOfs = Annotated[
    list[str],
    typer.Option(
        "--as-of", help="As above; may be given again: one model, trained before the first, is published as of each."
    ),
]


@app.command()
def build_events(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 1: raw tables -> events, profiles and rejected rows."""
    from pipelines.build_events import build_events as step

    _run("events", config, as_of, step)


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

    _run(
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

    _run("pretrain", config, as_of, with_bar)


@app.command()
def embed_customers(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 4: sequences and the current checkpoint -> embeddings."""
    from pipelines.embed_customers import embed_customers as step

    _run("embed", config, as_of, step)


@app.command()
def publish_embeddings(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 5: embeddings -> the feature table and its history."""
    from pipelines.publish_embeddings import publish_embeddings as step

    _run("publish", config, as_of, step)


@app.command()
def monitor_embeddings(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 6: counts, coverage, and how far the vectors moved."""
    from pipelines.monitor_embeddings import monitor_embeddings as step

    _run("monitor", config, as_of, step)


@app.command()
def evaluate_embeddings(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 7: the embedding against hand-made features on the declared tasks."""
    from pipelines.evaluate_embeddings import evaluate_embeddings as step

    _run("evaluate", config, as_of, step)


@app.command()
def write_report(config: ConfigPaths, as_of: AsOf) -> None:
    """The HTML report of the run as of a time."""
    from pipelines.write_report import write_report as step

    _run("report", config, as_of, step)


@app.command()
def full_build(config: ConfigPaths, as_of: AsOfs) -> None:
    """All steps: train before the first --as-of, publish as of each, evaluate and report the last."""
    from caspr_spark.evaluate.significance import score_table
    from pipelines.evaluate_embeddings import task_score_table
    from pipelines.full_build import full_build as build
    from pipelines.write_report import REPORT_FILE

    times, settings = sorted({parsed_as_of(text) for text in as_of}), load_config(config)
    bar = TrainingBar(settings.pretrain.max_epochs)
    console.print(f"[bold]{settings.dataset}[/bold]: caspr-spark {__version__}, tables in {settings.root}")

    def step_with_bar(name: str, step: Callable[[], Summary]) -> Summary:
        with closing(bar):
            return shown_step(name, step)

    with _session(settings, "full_build") as spark:
        summaries = build(spark, settings, times, run_step=step_with_bar, training_progress=bar)
        scores = task_score_table(spark, settings, times[-1])
    if not any(summary.changed for summary in summaries):
        console.print("Nothing changed: the raw tables and the configuration are as they were.")
    if len(scores):
        console.print(shown_scores(score_table(scores)))
    console.print(f"Report: {settings.root}/report/{REPORT_FILE}")
    console.print(escape(reading_commands(settings.root)))


def parsed_as_of(text: str) -> datetime:
    """An ISO 8601 time with a zone, as UTC. Raises ConfigError."""
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ConfigError(f"--as-of: {text!r} has no time zone; for UTC write e.g. {time.isoformat()}Z")
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(f"--as-of: expected a time such as 2017-10-02T00:00:00Z, found {text!r}") from None


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


def _run(name: str, config: list[Path], as_of: str, step: Callable[[SparkSession, Config, datetime], Summary]) -> None:
    time, settings = parsed_as_of(as_of), load_config(config)
    with _session(settings, name) as spark:
        shown_step(name, lambda: step(spark, settings, time))


@contextmanager
def _session(settings: Config, name: str) -> Iterator[SparkSession]:
    """A Spark session that ends with the command, also when it fails."""
    log_file = Path(settings.root) / "logs" / "spark.log"
    spark = spark_session(f"caspr-spark {name}", settings.spark.settings, log_file=log_file)
    try:
        yield spark
    finally:
        spark.stop()


def _terminate(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)


if __name__ == "__main__":
    main()
