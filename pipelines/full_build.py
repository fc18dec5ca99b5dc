"""All steps, in order: the table of contents of the project."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.pretrain.launch import Progress
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.embed_customers import embed_customers
from pipelines.evaluate_embeddings import evaluate_embeddings
from pipelines.monitor_embeddings import monitor_embeddings
from pipelines.pretrain_model import pretrain_model
from pipelines.publish_embeddings import publish_embeddings
from pipelines.summary import Summary
from pipelines.write_report import write_report

Step = Callable[[SparkSession, Config, datetime], Summary]
Runner = Callable[[str, Callable[[], Summary]], Summary]


def full_build(
    spark: SparkSession,
    config: Config,
    as_ofs: Sequence[datetime],
    *,
    run_step: Runner = lambda name, step: step(),
    training_progress: Progress | None = None,
) -> list[Summary]:
    """Train on what is before the first `as_of`; embed and publish every `as_of`; evaluate and report the last.

    `run_step` is called with each step's name and the step itself, so that a caller can show progress.
    """
    first, *later = sorted(as_ofs)
    steps: list[tuple[str, datetime, Step]] = [
        ("events", first, build_events),
        ("sequences", first, partial(build_sequences, fit_vocabulary=True)),
        ("pretrain", first, partial(pretrain_model, progress=training_progress)),
        *served(first),
    ]
    for as_of in later:
        steps += [("events", as_of, build_events), ("sequences", as_of, partial(build_sequences, fit_vocabulary=False))]
        steps += served(as_of)
    last = later[-1] if later else first
    if config.evaluate.tasks:
        steps.append(("evaluate", last, evaluate_embeddings))
    steps.append(("report", last, write_report))
    return [run_step(name, partial(step, spark, config, as_of)) for name, as_of, step in steps]


def served(as_of: datetime) -> list[tuple[str, datetime, Step]]:
    """The steps from sequences to what readers and watchers see."""
    return [
        ("embed", as_of, embed_customers),
        ("publish", as_of, publish_embeddings),
        ("monitor", as_of, monitor_embeddings),
    ]
