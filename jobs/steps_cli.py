"""Verbs of `caspr-spark` that are one step, or read what steps made: fine-tuning and exploring."""

from contextlib import closing
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pyspark.sql import SparkSession
from rich.markup import escape

from caspr_spark.aliases import known_model
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.erase.requests import read_ids
from jobs.console import TrainingBar, console, shown_step
from jobs.options import AsOf, ConfigPaths, Model, parsed_as_of
from jobs.running import run_one_step, run_step_of_model, session
from pipelines.summary import Summary


class Trained(StrEnum):
    """What `finetune` can train."""

    head = "head"
    encoder = "encoder"


def build_events(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 1: raw tables -> events, profiles and rejected rows."""
    from pipelines.build_events import build_events as step

    run_one_step("events", config, as_of, step)


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


def pretrain_model(config: ConfigPaths, as_of: AsOf) -> None:
    """Step 3: sequences -> checkpoint."""
    from pipelines.pretrain_model import pretrain_model as step

    def with_bar(spark: SparkSession, settings: Config, time: datetime) -> Summary:
        with closing(TrainingBar(settings.pretrain.max_epochs)) as bar:
            return step(spark, settings, time, progress=bar)

    # it has a lock of its own, and refreshes go on meanwhile
    run_one_step("pretrain", config, as_of, with_bar, writes=False)


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


def embed_customers(config: ConfigPaths, as_of: AsOf, model: Model = "champion") -> None:
    """Step 4: sequences and a checkpoint -> embeddings."""
    from pipelines.embed_customers import embed_customers as step

    run_step_of_model("embed", config, as_of, model, step)


def publish_embeddings(config: ConfigPaths, as_of: AsOf, model: Model = "champion") -> None:
    """Step 5: embeddings -> the feature table and its history."""
    from pipelines.publish_embeddings import publish_embeddings as step

    run_step_of_model("publish", config, as_of, model, step)


def monitor_embeddings(config: ConfigPaths, as_of: AsOf, model: Model = "champion") -> None:
    """Step 6: counts, coverage, and how far the vectors moved."""
    from pipelines.monitor_embeddings import monitor_embeddings as step

    run_step_of_model("monitor", config, as_of, model, step)


def evaluate_embeddings(config: ConfigPaths, as_of: AsOf, model: Model = "champion") -> None:
    """Step 7: the embedding against hand-made features on the declared tasks."""
    from pipelines.evaluate_embeddings import evaluate_embeddings as step

    run_step_of_model("evaluate", config, as_of, model, step)


def write_report(config: ConfigPaths, as_of: AsOf) -> None:
    """The HTML report of the run as of a time."""
    from pipelines.write_report import write_report as step

    run_one_step("report", config, as_of, step)


def explore(
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
