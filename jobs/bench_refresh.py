"""`make bench-refresh`: a refresh against a full build, by the length of the history, one JSON line each.

    python -m jobs.bench_refresh --history 1000000 --history 5000000 --root data/bench_refresh

Each history is built below --root with a model that was trained on a small one, then refreshed twice: once with one
customer in a hundred touched, once with one in ten. Every build and refresh is a process of its own, as a schedule
would start it. `rows_read` and `bytes_written` are what Spark's tasks read and wrote, intermediate files included.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from pyspark.sql import SparkSession

import conf
from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.registry import checkpoints_folder
from caspr_spark.session import spark_session
from caspr_spark.simulate.activity import arrivals, end_of_day, history
from caspr_spark.tables import table_path
from jobs.bench import RAW_VARIABLE
from jobs.measuring import machine, versions
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.pretrain_model import pretrain_model
from pipelines.refresh import refresh
from pipelines.scored_models import SERVED, for_each_model
from pipelines.summary import Summary
from schemas.vocabulary import SCALING, VOCABULARY

HISTORIES = [1_000_000, 5_000_000, 20_000_000]
TOUCHED_SHARES = (0.01, 0.1)
SMALL_HISTORY = 100_000

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench_refresh(
    history: Annotated[list[int] | None, typer.Option(help="Events of history; may be given again.")] = None,
    root: Annotated[Path, typer.Option(help="Folder below which all is built anew.")] = Path("data/bench_refresh"),
    part: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Build and refresh each history and print one JSON line for each."""
    if part:
        _run_part(part, root)
        return
    shutil.rmtree(root, ignore_errors=True)
    _start("train", SMALL_HISTORY, root)
    for num_events in history or HISTORIES:
        _start("build", num_events, root)
        for day in range(1, len(TOUCHED_SHARES) + 1):
            _start(f"refresh{day}", num_events, root)
        shutil.rmtree(root / str(num_events))


def _start(part: str, num_events: int, root: Path) -> None:
    command = [sys.executable, "-m", "jobs.bench_refresh", "--part", f"{part}-{num_events}", "--root", str(root)]
    subprocess.run(command, check=True)


def _run_part(part: str, root: Path) -> None:
    name, _, text = part.partition("-")
    num_events = int(text)
    folder = root / (name if name == "train" else text)
    os.environ[RAW_VARIABLE] = str(folder / "raw")
    config = load_config([Path(conf.__file__).parent / "bench_refresh.yaml"])
    config = config.model_copy(update={"root": str(folder / "root")})
    spark = spark_session("caspr-spark", config.spark.settings, log_file=folder / "root" / "logs" / "spark.log")
    try:
        if name == "train":
            _write_raw(history(spark, num_events=num_events, seed=config.seed), folder / "raw", "history")
            build_events(spark, config, end_of_day(0))
            build_sequences(spark, config, end_of_day(0), fit_vocabulary=True)
            pretrain_model(spark, config, end_of_day(0))
        elif name == "build":
            take_over_model(root / "train" / "root", Path(config.root))
            _write_raw(history(spark, num_events=num_events, seed=config.seed), folder / "raw", "history")
            _measure(spark, "full_build", num_events, partial(_build, spark, config))
        else:
            day = int(name.removeprefix("refresh"))
            share = TOUCHED_SHARES[day - 1]
            new = arrivals(spark, num_events=num_events, day=day, touched_share=share, seed=config.seed)
            _write_raw(new, folder / "raw", f"day{day}")
            _measure(spark, "refresh", num_events, partial(refresh, spark, config, end_of_day(day)))
    finally:
        spark.stop()


def _build(spark: SparkSession, config: Config, *, run_step: Callable[[str, Callable[[], Summary]], Summary]) -> None:
    """A full build with the model that is there."""
    as_of = end_of_day(0)
    run_step("events", partial(build_events, spark, config, as_of))
    run_step("sequences", partial(build_sequences, spark, config, as_of, fit_vocabulary=False))
    for_each_model(spark, config, as_of, SERVED, models=[champion_of(config.root)], run_step=run_step)


def take_over_model(trained: Path, root: Path) -> None:
    """Vocabulary, scaling and checkpoint of another root."""
    for contract in (VOCABULARY, SCALING):
        shutil.copytree(table_path(contract, str(trained)), table_path(contract, str(root)))
    shutil.copytree(checkpoints_folder(trained), checkpoints_folder(root))


def _write_raw(tables: tuple[Any, Any], raw: Path, name: str) -> None:
    for table, folder in zip(tables, ("payments", "views"), strict=True):
        table.write.parquet(str(raw / folder / name))


class Work(NamedTuple):
    """What Spark's tasks did since the session began."""

    rows_read: int
    bytes_written: int


def work_done(spark: SparkSession) -> Work:
    """Sums over all stages. Rows that are read from what a step keeps on disk count too."""
    gateway, store = spark.sparkContext._gateway, spark.sparkContext._jsc.sc().statusStore()
    no_quantiles = gateway.new_array(gateway.jvm.double, 0)  # type: ignore[union-attr]
    stages = store.stageList(None, False, False, no_quantiles, gateway.jvm.java.util.ArrayList())  # type: ignore[union-attr]
    found = [stages.apply(index) for index in range(stages.size())]
    return Work(sum(s.inputRecords() for s in found), sum(s.outputBytes() for s in found))


def _measure(spark: SparkSession, name: str, num_events: int, run: Callable[..., Any]) -> None:
    """Run and print one JSON line: the whole, and seconds, rows read and bytes written of each step."""
    steps: dict[str, dict[str, float]] = {}
    touched = 0

    def measured(step: str, do: Callable[[], Summary]) -> Summary:
        nonlocal touched
        started, before = time.monotonic(), work_done(spark)
        summary = do()
        after = work_done(spark)
        steps[step] = {
            "seconds": round(time.monotonic() - started, 1),
            "rows_read": after.rows_read - before.rows_read,
            "bytes_written": after.bytes_written - before.bytes_written,
        }
        touched = summary.rows_out if step == "sequences" else touched
        return summary

    started, before = time.monotonic(), work_done(spark)
    run(run_step=measured)
    seconds, after = time.monotonic() - started, work_done(spark)
    line = {
        "bench": name,
        "history_events": num_events,
        "touched_customers": touched,
        "seconds": round(seconds, 1),
        "customers_per_minute": round(touched / seconds * 60),
        "bytes_published_a_vector": round(steps["publish"]["bytes_written"] / touched) if touched else None,
        "rows_read": after.rows_read - before.rows_read,
        "bytes_written": after.bytes_written - before.bytes_written,
        "steps": steps,
        "versions": versions(),
        "machine": machine(),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(app())
