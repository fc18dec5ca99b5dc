"""How a verb runs: a session of its own, alone on the root where it writes, its steps shown."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession

from caspr_spark.aliases import known_model
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.erase.requests import refuse_unfinished
from caspr_spark.lease import demand_writable, lease
from caspr_spark.session import spark_session
from jobs.console import shown_step
from jobs.failures import explained_failures, stop
from jobs.options import parsed_as_of
from pipelines.summary import Summary

if TYPE_CHECKING:
    from pipelines.scored_models import ModelStep


def run_one_step(
    name: str,
    config: list[Path],
    as_of: str,
    step: Callable[[SparkSession, Config, datetime], Summary],
    *,
    writes: bool = True,
) -> None:
    time, settings = parsed_as_of(as_of), load_config(config)
    with session(settings, name, writes=writes) as spark:
        shown_step(name, lambda: step(spark, settings, time))


def run_step_of_model(name: str, config: list[Path], as_of: str, model: str, step: "ModelStep") -> None:
    def of_model(spark: SparkSession, settings: Config, time: datetime) -> Summary:
        return step(spark, settings, time, model_version=known_model(settings.root, model))

    run_one_step(name, config, as_of, of_model)


def raise_problems(summaries: Sequence[Summary]) -> None:
    """End with the exit code of what stopped a part of the work, now that the rest is done."""
    for summary in summaries:
        if summary.problem is not None:
            raise summary.problem


@contextmanager
def session(
    settings: Config, name: str, *, writes: bool = True, finishes_erasure: bool = False
) -> Iterator[SparkSession]:
    """A Spark session that ends with the command, also when it fails; alone on the root where it `writes`.

    Raises:
        ConfigError: it writes, and the root or a folder of it cannot be written.
        UnsafeError: it writes, and an erasure was killed that this command does not finish.
        CasprError: as `explained_failures`.
    """
    root = Path(settings.root)
    with lease(settings.root, wait_seconds=settings.refresh.wait_seconds) if writes else nullcontext():
        if writes:
            demand_writable(settings.root)
        if writes and not finishes_erasure:
            refuse_unfinished(settings.root)
        log_file = root / "logs" / "spark.log"
        is_read_only = root.exists() and not os.access(root, os.W_OK)  # a reader's view of it: no log then
        with explained_failures(settings.root, log=str(log_file)):
            spark = spark_session(
                f"caspr-spark {name}", settings.spark.settings, log_file=None if is_read_only else log_file
            )
            try:
                yield spark
            finally:
                stop(spark)
