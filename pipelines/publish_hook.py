"""What happens after a run was published: whoever waits for its vectors is told, by a program or a file."""

from pathlib import Path

from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.delivery import undelivered
from caspr_spark.metrics import write_metrics
from caspr_spark.publish.outbox import add_notice, remove_notice, waiting_notices
from caspr_spark.runs import Run
from caspr_spark.tables import read_table, table_path, table_version
from schemas.contract import Contract


def is_asked_for(config: Config) -> bool:
    return bool(config.publish.after_command or config.publish.after_file)


def note_published(spark: SparkSession, config: Config, run: Run, latest: Contract) -> None:
    """Leave a notice of the run whose vectors `latest` now holds; it names no customer."""
    add_notice(
        config.root,
        {
            "notice": "published",
            "dataset": config.dataset,
            "run_id": run.run_id,
            "model_version": run.model_version,
            "as_of": run.as_of.isoformat(),
            "kind": run.kind,
            "table": str(Path(table_path(latest, config.root)).absolute()),
            "table_version": table_version(spark, latest, config.root),
            "rows_written": run.num_customers,
            "rows_removed": run.num_removed,
            "customers": read_table(spark, latest, config.root).count(),
        },
    )


def call_hook(spark: SparkSession, config: Config, run: Run) -> list[str]:
    """Deliver what waits, the oldest first, up to the first that fails; returns a line that says what failed, if any.

    A failure is noted in RUN_METRICS of `run`, as the number of notices that wait for the next run that is published.
    """
    notices = waiting_notices(config.root)
    for number, notice in enumerate(notices):
        sinks = config.publish
        failed = undelivered(notice, command=sinks.after_command, file=sinks.after_file, setting="publish.after")
        if failed:
            num_waiting = len(notices) - number
            numbers = {("notices_undelivered", ""): float(num_waiting)}
            write_metrics(spark, numbers, config.root, as_of=run.as_of, run_id=run.run_id, stage="publish")
            return [
                f"warning: published, but the notice of run {notice['run_id']} was not delivered: {'; '.join(failed)}; "
                f"{num_waiting} wait, publishing again or the next run tries again"
            ]
        remove_notice(config.root, notice)
    return []
