"""The gates of one step: verdicts gathered, Data Docs written, and the run stopped where a check says so."""

from datetime import datetime

from caspr_spark.config import Config
from caspr_spark.data_docs import write_page
from caspr_spark.errors import GateError
from caspr_spark.gate import Judged


class GateRun:
    """What was judged in `step` as of a time. Its page names the dataset, the step and the time, and is rewritten by
    the same step as of the same time."""

    def __init__(self, config: Config, as_of: datetime, step: str) -> None:
        self._config, self._as_of, self._step = config, as_of, step
        self._judged: list[Judged] = []
        self._page = ""

    def take(self, judged: Judged, *, so: str) -> None:
        """Add what was judged to the page. `so`: what to do where a check stops the run.

        Raises:
            GateError: a check declared as `stop` failed.
        """
        self._judged.append(judged)
        if any(one.outcome is not None for one in self._judged):
            page = write_page(
                self._config.root,
                f"{self._as_of:%Y%m%dT%H%M%SZ}-{self._step}",
                title=f"{self._config.dataset}: {self._step} as of {self._as_of:%Y-%m-%d %H:%M:%S} UTC",
                judged=self._judged,
                keep=self._config.maintain.keep_data_docs,
            )
            self._page = str(page)
        if failed := [verdict for verdict in judged.verdicts if not verdict.passed and verdict.on_fail == "stop"]:
            raise GateError(
                "the gate stopped the run; the tables are as they were:\n"
                + "\n".join(f"  - {verdict.detail}" for verdict in failed)
                + f"\n{so}\nData Docs: {self._page}"
            )

    @property
    def notes(self) -> list[str]:
        """A line for each check that failed and lets the run go on, and where to read of it."""
        verdicts = [verdict for judged in self._judged for verdict in judged.verdicts]
        warnings = [f"warning: {verdict.detail}" for verdict in verdicts if not verdict.passed]
        return [*warnings, f"Data Docs: {self._page}"] if warnings else []
