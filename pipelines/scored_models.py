"""What is done for the champion is done for the challenger beside it, and a challenger that fails stops nothing."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol

from pyspark.sql import SparkSession

from caspr_spark.aliases import read_aliases
from caspr_spark.config import Config
from caspr_spark.errors import CasprError
from caspr_spark.manifest import Fit
from caspr_spark.registry import check_fits, checkpoint_folder, read_model, verified_index
from pipelines.embed_customers import embed_customers
from pipelines.monitor_embeddings import monitor_embeddings
from pipelines.publish_embeddings import publish_embeddings
from pipelines.summary import Summary

Runner = Callable[[str, Callable[[], Summary]], Summary]


class ModelStep(Protocol):
    """A step that is about one model."""

    def __call__(self, spark: SparkSession, config: Config, as_of: datetime, *, model_version: str) -> Summary: ...


SERVED: Sequence[tuple[str, ModelStep]] = (
    ("embed", embed_customers),
    ("publish", publish_embeddings),
    ("monitor", monitor_embeddings),
)
"""From sequences to what readers and watchers see."""


def for_each_model(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    steps: Sequence[tuple[str, ModelStep]],
    *,
    models: Iterable[str],
    run_step: Runner,
) -> list[Summary]:
    """The steps for each model, one after the other, the champion first.

    Whatever stops the champion is raised. What stops another model stands in the last summary, as its `problem`.
    """
    champion = read_aliases(config.root).champion
    summaries: list[Summary] = []
    for model in sorted(models, key=lambda model: model != champion):
        try:
            for name, step in steps:
                summaries.append(run_step(name, partial(step, spark, config, as_of, model_version=model)))
        except Exception as error:
            if model == champion:
                raise
            summaries.append(refused(model, error, run_step))
    return summaries


def refused(model: str, error: Exception, run_step: Runner) -> Summary:
    """Say that a model that is not the champion was stopped; the command's exit code will be the error's."""
    note = f"warning: {model} was not scored, the champion was: {error}"
    return run_step("challenger", lambda: Summary("challenger", 0, 0, (note,), changed=False, problem=error))


def refusal(root: str, model: str, fit: Fit) -> CasprError | None:
    """Why a model cannot read sequences of this fit: damaged, or of another vocabulary or layout; None if it can."""
    folder = checkpoint_folder(root, model)
    try:
        verified_index(folder)
        check_fits(read_model(folder), fit)
    except CasprError as error:
        return error
    return None
