"""All steps, in order: the table of contents of the project."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from pyspark.sql import SparkSession

from caspr_spark.aliases import read_aliases
from caspr_spark.config import Config
from caspr_spark.pretrain.job import Progress
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.evaluate_embeddings import evaluate_embeddings
from pipelines.pretrain_model import pretrain_model
from pipelines.scored_models import SERVED, Runner, for_each_model
from pipelines.summary import Summary
from pipelines.write_report import write_report


def full_build(
    spark: SparkSession,
    config: Config,
    as_ofs: Sequence[datetime],
    *,
    run_step: Runner = lambda name, step: step(),
    training_progress: Progress | None = None,
) -> list[Summary]:
    """Train on what is before the first `as_of`; embed and publish every `as_of`; evaluate and report the last.

    The first model of a root is its champion, a later one the challenger; both are scored. `run_step` is called with
    each step's name and the step itself, so that a caller can show progress.
    """
    summaries: list[Summary] = []
    for number, as_of in enumerate(sorted(as_ofs)):
        is_first = number == 0
        summaries.append(run_step("events", partial(build_events, spark, config, as_of)))
        step = partial(build_sequences, spark, config, as_of, fit_vocabulary=is_first)
        summaries.append(run_step("sequences", step))
        if is_first:
            training = partial(pretrain_model, spark, config, as_of, progress=training_progress)
            summaries.append(run_step("pretrain", training))
        models = read_aliases(config.root).scored
        summaries += for_each_model(spark, config, as_of, SERVED, models=models, run_step=run_step)
    if config.evaluate.tasks:
        steps = [("evaluate", evaluate_embeddings)]
        published = _published(summaries, models)
        summaries += for_each_model(spark, config, as_of, steps, models=published, run_step=run_step)
    summaries.append(run_step("report", partial(write_report, spark, config, as_of)))
    return summaries


def _published(summaries: Sequence[Summary], models: Sequence[str]) -> Sequence[str]:
    """Without the challenger if it was refused: it has no vectors to evaluate."""
    return models[:1] if any(summary.problem for summary in summaries) else models
