"""`make bench`: seconds and memory of every stage, one JSON line each, on a generated and on the demo data set.

    python -m jobs.bench --customers 3000 --dataset generated --root data/bench

Each run starts from an empty folder below --root. Memory is the sum of the resident sets of this process and all that
descend from it (JVM, Spark's Python workers); pages that two processes share count twice.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import conf
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.pretrain.job import EpochRecord
from caspr_spark.session import spark_session
from caspr_spark.simulate.purchases import accounts, order_lines
from jobs.measuring import PeakMemory, machine, versions
from pipelines.full_build import full_build
from pipelines.summary import Summary

RAW_VARIABLE = "CASPR_BENCH_RAW"
CONF = Path(conf.__file__).parent


class Dataset(StrEnum):
    generated = "generated"
    complete_journey = "complete_journey"


AS_OF = {
    Dataset.generated: datetime(2024, 10, 1, tzinfo=UTC),
    Dataset.complete_journey: datetime(2017, 10, 2, tzinfo=UTC),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench(
    customers: Annotated[int, typer.Option(min=100, help="Customers of the generated data set.")] = 3000,
    dataset: Annotated[list[Dataset] | None, typer.Option(help="Only this one; may be given again.")] = None,
    root: Annotated[Path, typer.Option(help="Folder below which each data set is built anew.")] = Path("data/bench"),
) -> None:
    """Build from scratch and print one JSON line a stage."""
    names = dataset or list(Dataset)
    if len(names) > 1:  # each in a process of its own: the second would find a JVM that is warm and has grown
        for name in names:
            options = ["--customers", str(customers), "--dataset", name, "--root", str(root)]
            subprocess.run([sys.executable, "-m", "jobs.bench", *options], check=True)
        return
    name = names[0]
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    os.environ[RAW_VARIABLE] = str(folder / "raw")
    overlay = CONF / ("bench.yaml" if name is Dataset.generated else f"{name}.yaml")
    config = load_config([overlay]).model_copy(update={"root": str(folder / "root")})
    _bench(name, config, folder / "raw", num_customers=customers)


def _bench(name: Dataset, config: Config, raw: Path, *, num_customers: int) -> None:
    memory, epochs = PeakMemory(), list[EpochRecord]()
    about = {"dataset": str(name), "versions": versions(), "machine": machine()}

    def measured(stage: str, step: Callable[[], Summary]) -> Summary:
        memory.restart()
        epochs.clear()
        started = time.monotonic()
        summary = step()
        seconds = time.monotonic() - started
        rows = sum(epoch.rows for epoch in epochs) or summary.rows_in  # a model sees its customers once an epoch
        _print_line(stage, rows, seconds, memory.mib(), about)
        return summary

    try:
        memory.restart()
        started = time.monotonic()
        log_file = Path(config.root) / "logs" / "spark.log"
        spark = spark_session("caspr-spark bench", config.spark.settings, log_file=log_file)
        try:
            _print_line("session", 0, time.monotonic() - started, memory.mib(), about)
            if name is Dataset.generated:
                measured("generate", lambda: _generated(spark, raw, num_customers=num_customers, seed=config.seed))
            full_build(spark, config, [AS_OF[name]], run_step=measured, training_progress=epochs.append)
        finally:
            spark.stop()
    finally:
        memory.close()


def _generated(spark: Any, raw: Path, *, num_customers: int, seed: int) -> Summary:
    lines = order_lines(spark, num_customers=num_customers, seed=seed)
    lines.write.mode("overwrite").parquet(str(raw / "order_lines"))
    accounts(spark, num_customers=num_customers, seed=seed).write.mode("overwrite").parquet(str(raw / "accounts"))
    num_lines = spark.read.parquet(str(raw / "order_lines")).count()
    return Summary("generate", num_lines, num_lines)


def _print_line(stage: str, rows: int, seconds: float, peak_rss_mib: float, about: dict[str, Any]) -> None:
    line = {
        "bench": stage,
        "dataset": about["dataset"],
        "rows": rows,
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / seconds, 1),
        "peak_rss_mib": round(peak_rss_mib),
        "versions": about["versions"],
        "machine": about["machine"],
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(app())
