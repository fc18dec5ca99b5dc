"""Retraining: a challenger from what happened up to `as_of`, while refreshes of the champion go on."""

from datetime import datetime
from functools import partial

from pyspark.sql import SparkSession

from caspr_spark.aliases import champion_of, read_aliases
from caspr_spark.config import Config
from caspr_spark.pretrain.job import Progress
from pipelines.build_sequences import build_sequences
from pipelines.evaluate_embeddings import evaluate_embeddings
from pipelines.pretrain_model import pretrain_model
from pipelines.scored_models import SERVED, ModelStep, Runner, for_each_model
from pipelines.summary import Summary
from pipelines.write_report import write_report


def retrain(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    *,
    run_step: Runner = lambda name, step: step(),
    training_progress: Progress | None = None,
) -> list[Summary]:
    """Grow the vocabulary in use, train on the events before `as_of`, and score the result beside the champion.

    The events are those of the last refresh; no raw table is read. Both models publish a full run as of `as_of`: the
    champion before the training. Only `pretrain` may run beside other writers of the root; `run_step` sees to it.

    Raises:
        CasprError: the root has no champion yet.
    """
    champion = champion_of(config.root)
    step = partial(build_sequences, spark, config, as_of, fit_vocabulary=True)
    summaries = [run_step("sequences", step)]
    summaries += for_each_model(spark, config, as_of, SERVED, models=[champion], run_step=run_step)
    summaries.append(run_step("pretrain", partial(pretrain_model, spark, config, as_of, progress=training_progress)))
    challenger = read_aliases(config.root).challenger
    if challenger is not None:  # None: the same training again gave the champion
        steps: list[tuple[str, ModelStep]] = list(SERVED)
        if config.evaluate.tasks:
            steps.append(("evaluate", evaluate_embeddings))
        summaries += for_each_model(spark, config, as_of, steps, models=[challenger], run_step=run_step)
    summaries.append(run_step("report", partial(write_report, spark, config, as_of)))
    return summaries
