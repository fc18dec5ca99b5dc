"""Refresh: what arrived since the last run -> new vectors of the customers that it touches. The table of contents."""

from datetime import datetime
from functools import partial

from pyspark.sql import SparkSession

from caspr_spark.aliases import champion_of, read_aliases
from caspr_spark.config import Config
from caspr_spark.errors import CasprError
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.runs import Run, mend_runs, record_run, run_before
from pipelines.build_sequences import refresh_sequences, sequence_versions
from pipelines.fit import present_fit
from pipelines.latest_vectors import latest_table, serve_champion
from pipelines.refresh_events import refresh_events
from pipelines.scored_models import SERVED, Runner, for_each_model, refusal, refused
from pipelines.summary import Summary


def refresh(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    *,
    compare_all: bool = False,
    run_step: Runner = lambda name, step: step(),
) -> list[Summary]:
    """Bring the published vectors up to `as_of`, of touched and new customers only, by the champion and the challenger.

    Each model goes on from its own last run; a challenger without one begins with everybody. A challenger that cannot
    be scored leaves a `problem` in the summaries. `compare_all`: look at every customer's raw rows and make every
    vector again.

    Raises:
        CasprError: no run of the champion was published up to `as_of`, so there is nothing to go on from.
    """
    serve_champion(spark, config.root)
    for model in read_aliases(config.root).scored:
        mend_runs(spark, latest_table(config.root, model), config.root)
    previous = previous_runs(spark, config, as_of)
    summaries = [run_step("events", partial(refresh_events, spark, config, as_of, compare_all=compare_all))]
    challenger = read_aliases(config.root).challenger
    if challenger is not None and (error := refusal(config.root, challenger, present_fit(spark, config)[1])):
        summaries.append(refused(challenger, error, run_step))
        del previous[challenger]
    step = partial(refresh_sequences, spark, config, as_of, previous=previous, everybody=compare_all)
    sequences = run_step("sequences", step)
    summaries.append(sequences)
    due = read_manifest(sequences_folder(config.root, as_of)).previous_runs if sequences.rows_in else {}
    for model, run in previous.items():
        if model not in due and run is not None and as_of > run.as_of:  # the next refresh goes on from here
            versions = sequence_versions(spark, config)
            run_id = f"{as_of:%Y%m%dT%H%M%SZ}-{model}-unchanged"
            record_run(spark, Run(run_id, as_of, "refresh", model, run.run_id, **versions), config.root)
    return summaries + for_each_model(spark, config, as_of, SERVED, models=due, run_step=run_step)


def previous_runs(spark: SparkSession, config: Config, as_of: datetime) -> dict[str, Run | None]:
    """model_version -> its last run up to `as_of`, the champion first; None where a challenger has none yet.

    Raises:
        CasprError: the champion has none.
    """
    champion = champion_of(config.root)
    models = read_aliases(config.root).scored
    runs = {model: run_before(spark, config.root, as_of=as_of, model_version=model) for model in models}
    if runs[champion] is None:
        raise CasprError(
            f"{config.root}: no run of model {champion} was published as of {as_of.isoformat()} or before; "
            "run full-build first"
        )
    return runs
