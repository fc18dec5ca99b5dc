"""Airflow 3: `caspr-spark refresh` as of the end of each data interval, every six hours. docs/scheduling.md says more.

Put this file into the folder of DAGs. CASPR_SPARK_HOME (a checkout with its .venv, on the worker) and
CASPR_SPARK_CONFIG (YAML files below it, separated by colons) are read from Airflow's environment.
"""

import logging
import os
import signal
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator, CronDataIntervalTimetable, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

HOME = os.environ.get("CASPR_SPARK_HOME", "/srv/caspr-spark")
CONFIGS = os.environ.get("CASPR_SPARK_CONFIG", "conf/bank.yaml").split(":")
DRIFT_ALERT = 4  # published, but the vectors moved too far
TRY_AGAIN = 75  # another run was in the way


class CasprSparkRefresh(BaseOperator):
    """Runs `caspr-spark refresh`; returns its exit code where it published or had nothing to do."""

    template_fields = ("as_of",)

    def __init__(self, *, as_of: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.as_of = as_of
        self.hook = SubprocessHook()

    def execute(self, context: Any) -> int:
        command = [f"{HOME}/.venv/bin/caspr-spark", "refresh", "--as-of", self.as_of]
        command += [part for config in CONFIGS for part in ("--config", config)]
        code = self.hook.run_command(command, cwd=HOME).exit_code
        if code in (0, DRIFT_ALERT):
            return code
        if code == TRY_AGAIN:
            raise AirflowException("exit code 75: another run was in the way; this one is tried again later")
        raise AirflowFailException(f"exit code {code}: not tried again, see the message above")

    def on_kill(self) -> None:
        """The program ends its own JVM: SIGTERM goes to it alone."""
        if self.hook.sub_process is not None:
            self.hook.sub_process.send_signal(signal.SIGTERM)


@dag(
    schedule=CronDataIntervalTimetable("0 */6 * * *", timezone="UTC"),
    start_date=datetime(2024, 1, 1),
    catchup=False,  # one refresh catches up on all that was missed; `caspr-spark backfill` makes the intervals between
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=5, minutes=45),  # with all its tries, before the next one is due
    default_args={"retries": 8, "retry_delay": timedelta(minutes=15), "execution_timeout": timedelta(hours=5)},
    tags=["caspr-spark"],
)
def caspr_spark_refresh() -> None:
    @task(retries=0)
    def drift_alert(exit_code: int) -> None:
        """Runs where a published run raised a drift alert, and is skipped otherwise: hang a notifier on its success."""
        if exit_code != DRIFT_ALERT:
            raise AirflowSkipException("no drift alert")
        logging.getLogger(__name__).warning("published, but the vectors moved too far: see the report")

    refresh = CasprSparkRefresh(task_id="refresh", as_of="{{ data_interval_end | ts }}")
    drift_alert(refresh.output)


caspr_spark_refresh()
