"""Refresh: what arrived since the last run -> new vectors of the customers that it touches. The table of contents."""

from datetime import datetime
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import CasprError
from caspr_spark.model.checkpoint import current_checkpoint
from caspr_spark.runs import Run, mend_runs, record_run, run_before
from pipelines.build_sequences import refresh_sequences, sequence_versions
from pipelines.full_build import Runner, served
from pipelines.refresh_events import refresh_events
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDINGS


def refresh(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    *,
    compare_all: bool = False,
    run_step: Runner = lambda name, step: step(),
) -> list[Summary]:
    """Bring the published vectors up to `as_of`, of touched and new customers only, with the current model.

    `compare_all`: look at every customer's raw rows and make every vector again.

    Raises:
        CasprError: no run of the current model was published up to `as_of`, so there is nothing to go on from.
    """
    mend_runs(spark, CUSTOMER_EMBEDDINGS, config.root)
    model_version = current_checkpoint(Path(config.root)).model_version
    previous = run_before(spark, config.root, as_of=as_of, model_version=model_version)
    if previous is None:
        raise CasprError(
            f"{config.root}: no run of model {model_version} was published as of {as_of.isoformat()} or before; "
            "run full-build first"
        )
    summaries = [run_step("events", partial(refresh_events, spark, config, as_of, compare_all=compare_all))]
    step = partial(refresh_sequences, spark, config, as_of, previous=previous, everybody=compare_all)
    sequences = run_step("sequences", step)
    summaries.append(sequences)
    if not sequences.rows_in:
        if as_of > previous.as_of:  # the next refresh goes on from here
            versions = sequence_versions(spark, config)
            run_id = f"{as_of:%Y%m%dT%H%M%SZ}-{model_version}-unchanged"
            unchanged = Run(run_id, as_of, "refresh", model_version, previous.run_id, **versions)
            record_run(spark, unchanged, config.root)
        return summaries
    return summaries + [run_step(name, partial(step, spark, config, time)) for name, time, step in served(as_of)]
