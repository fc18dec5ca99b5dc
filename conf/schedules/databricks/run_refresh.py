"""The Databricks task: `caspr-spark refresh` in a process of its own, with its own Python and Spark.

    run_refresh.py --as-of TIME_OR_MILLISECONDS --config FILE [--config FILE ...]

No Databricks runtime has both Spark 4.0 and Python 3.11, which this project needs: so it brings them in its image, and
the cluster's Spark stays idle.
"""

import os
import subprocess
import sys
from datetime import UTC, datetime

HOME = "/opt/caspr-spark"
OF_THE_CLUSTER = ("SPARK_", "PYSPARK_", "PYTHON", "DATABRICKS_", "JAVA_")


def main(arguments: list[str]) -> None:
    """Raises RuntimeError, which fails the task, with the meaning of any exit code but 0."""
    command = [f"{HOME}/.venv/bin/caspr-spark", "refresh", *with_iso_times(arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OF_THE_CLUSTER)}
    code = subprocess.run(command, cwd=HOME, env=environment).returncode
    if code == 4:
        raise RuntimeError("exit code 4: published, but the vectors moved too far; see the report")
    if code:
        raise RuntimeError(f"exit code {code}: not published, see the message above and docs/scheduling.md")


def with_iso_times(arguments: list[str]) -> list[str]:
    """The arguments; milliseconds since 1970, as Databricks gives them, become ISO 8601, to the minute."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [iso_time(value) if option == "--as-of" and value.isdigit() else value for option, value in pairs]


def iso_time(milliseconds: str) -> str:
    return datetime.fromtimestamp(int(milliseconds) // 60_000 * 60, UTC).isoformat()


if __name__ == "__main__":
    main(sys.argv[1:])
