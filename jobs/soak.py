"""`make soak`: many refreshes of the simulated bank, many of them killed, and proof that nothing is lost or doubled.

    python -m jobs.soak --refreshes 200 --root data/soak

A bank (synthetic) is written once, in batches of eight hours with late, repeated, damaged and disordered rows. The
first are built in full; each refresh then takes one batch more. A refresh is killed, by SIGKILL of its whole process
group at a random moment, with the chance --kill-share, and started again. The same command with more refreshes goes on
where it stopped, and so does one that was stopped itself.

After all of them the tables are compared with what one build from all raw rows gives. The last line is JSON.
"""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import conf
from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.config_file import load_config
from caspr_spark.lease import lease
from caspr_spark.session import spark_session
from caspr_spark.simulate.bank.batches import deliver_batch
from caspr_spark.tables import read_table, table_path
from jobs.bench_refresh import take_over_model
from pipelines.build_events import build_events
from pipelines.build_sequences import build_sequences
from pipelines.contracts import event_contract, profile_contract, state_contract
from pipelines.embed_customers import embed_customers
from pipelines.full_build import full_build
from pipelines.maintain import maintain
from pipelines.refresh import refresh
from pipelines.simulate_bank import simulate_bank
from schemas.contract import Contract
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, EMBEDDINGS
from schemas.events import REJECTED
from schemas.run_metrics import RUN_METRICS
from schemas.runs import RUNS

RAW_VARIABLE = "CASPR_SOAK_RAW"
START = datetime(2024, 1, 1, tzinfo=UTC)
HOURS = 8
FIRST_BATCHES = 60
"""Batches that the full build takes: twenty days."""
FAULTS = ("late", "duplicated", "out_of_order", "corrupt=0-:0.002")
MAINTAIN_EVERY = 25
TIMES_COMPARED = 5
"""So many of the published as_of, drawn at random, have their vectors compared with a full build's."""
LARGEST_DIFFERENCE = 1e-4

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Record:
    """What was done so far, kept in a file so that a soak can be stopped and go on."""

    seed: int
    num_done: int = 0
    num_kills: int = 0
    kills_by_step: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    """Of the refreshes that were not killed."""


@app.command()
def soak(
    refreshes: Annotated[int, typer.Option(min=1, help="How many in all, with those of earlier calls.")] = 200,
    root: Annotated[Path, typer.Option(help="Folder of the bank, the tables and the record.")] = Path("data/soak"),
    customers: Annotated[int, typer.Option(min=1)] = 150,
    kill_share: Annotated[float, typer.Option(min=0, max=0.9, help="Chance that a refresh is killed.")] = 0.3,
    seed: int = 1,
    part: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Refresh, kill, refresh again; then compare with one build from everything."""
    if part:
        {"prepare": _prepare, "work": _work, "check": _check}[part](root, refreshes, customers, seed)
        return
    record = _read_record(root, seed)
    _start("prepare", root, refreshes, customers, seed)
    worker = Worker(root, refreshes, customers, seed)
    try:
        while record.num_done < refreshes or _is_delivered(root, FIRST_BATCHES + record.num_done):
            _refresh_once(worker, root, record, kill_share)
            _write_record(root, record)
    finally:
        worker.stop()
    _start("check", root, refreshes, customers, seed)


def as_of_refresh(number: int) -> datetime:
    """The end of the newest batch that a refresh takes; 0 is the full build."""
    return START + timedelta(hours=HOURS * (FIRST_BATCHES + number))


def _refresh_once(worker: "Worker", root: Path, record: Record, kill_share: float) -> None:
    number = record.num_done + 1
    dice = random.Random(f"{record.seed} {number} {record.num_kills}")
    deliver_batch(root / "staged", root / "raw", FIRST_BATCHES + number - 1)
    usual = statistics.median(record.seconds[-20:]) if record.seconds else 60.0
    kill_after = dice.uniform(0, 1.1 * usual) if dice.random() < kill_share else None
    started = time.monotonic()
    step = worker.refresh(number, kill_after=kill_after)
    if step is None:
        record.num_done = number
        if kill_after is None:
            record.seconds.append(round(time.monotonic() - started, 1))
    else:
        record.num_kills += 1
        record.kills_by_step[step] = record.kills_by_step.get(step, 0) + 1
    print(f"refresh {number}: " + ("done" if step is None else f"killed in {step}"), file=sys.stderr, flush=True)


class Worker:
    """A process that refreshes when it is told to, and can be killed with all of its children."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    def refresh(self, number: int, *, kill_after: float | None) -> str | None:
        """None where the refresh ended; the step in which it was killed otherwise.

        Raises:
            RuntimeError: it failed by itself.
        """
        process = self._running()
        tell, hear = _pipes(process)
        tell.write(f"{number}\n")
        tell.flush()
        if kill_after is not None:
            signal.signal(signal.SIGALRM, lambda *_: _kill_group(process.pid))
            signal.setitimer(signal.ITIMER_REAL, kill_after)
        step = "start"
        for line in hear:
            if line.startswith("step "):
                step = line.split()[1]
            if line.startswith("done "):
                signal.setitimer(signal.ITIMER_REAL, 0)
                return None
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._process = None
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError(f"refresh {number} failed in {step} by itself: exit code {process.returncode}")
        return step

    def stop(self) -> None:
        """End the process, if there is one, and wait for it."""
        if self._process is not None:
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait()

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._process = subprocess.Popen(_command("work", *self._arguments), start_new_session=True, **pipes)
            _, hear = _pipes(self._process)
            while hear.readline() not in ("ready\n", ""):
                pass
        return self._process


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _pipes(process: "subprocess.Popen[str]") -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _command(part: str, root: Path, refreshes: int, customers: int, seed: int) -> list[str]:
    options = {"--part": part, "--root": root, "--refreshes": refreshes, "--customers": customers, "--seed": seed}
    return [sys.executable, "-m", "jobs.soak", *[str(text) for pair in options.items() for text in pair]]


def _start(*arguments: Any) -> None:
    subprocess.run(_command(*arguments), check=True)


def _is_delivered(root: Path, batch: int) -> bool:
    """True where a soak that was stopped had begun with this batch: some of it may be taken already."""
    return any((root / "raw").glob(f"*/batch-{batch:06}"))


def _prepare(root: Path, refreshes: int, customers: int, seed: int) -> None:
    """The bank's files, and the full build."""
    spark, config = _session(root)
    simulate_bank(
        spark,
        root / "staged",
        num_customers=customers,
        start=START,
        num_batches=FIRST_BATCHES + refreshes,
        hours=HOURS,
        seed=seed,
        faults=() if (root / "staged" / "simulation.json").exists() else FAULTS,
    )
    for batch in range(FIRST_BATCHES):
        deliver_batch(root / "staged", root / "raw", batch)
    if not (Path(config.root) / RUNS.name).exists():
        full_build(spark, config, [as_of_refresh(0)])
    spark.stop()


def _work(root: Path, _refreshes: int, _customers: int, _seed: int) -> None:
    """Refresh as standard input says, until it ends."""
    spark, config = _session(root)
    print("ready", flush=True)
    for line in sys.stdin:
        number = int(line)
        with lease(config.root, wait_seconds=60):

            def say(name: str, step: Any) -> Any:
                print(f"step {name}", flush=True)
                return step()

            refresh(spark, config, as_of_refresh(number), run_step=say)
            if number % MAINTAIN_EVERY == 0:
                print("step maintain", flush=True)
                maintain(spark, config)
        print(f"done {number}", flush=True)
    spark.stop()


def _session(root: Path) -> tuple[SparkSession, Config]:
    os.environ[RAW_VARIABLE] = str((root / "raw").resolve())
    config = load_config([Path(conf.__file__).parent / "soak.yaml"])
    config = config.model_copy(update={"root": str((root / "tables").resolve())})
    log_file = root / "logs" / "spark.log"
    return spark_session("caspr-spark soak", config.spark.settings, log_file=log_file), config


def _check(root: Path, _refreshes: int, customers: int, seed: int) -> None:
    """Print the summary; exit code 1 where something is lost, doubled or different."""
    record = _read_record(root, seed)
    spark, config = _session(root)
    last = as_of_refresh(record.num_done)
    whole = config.model_copy(update={"root": str((root / "whole").resolve())})
    shutil.rmtree(whole.root, ignore_errors=True)
    take_over_model(Path(config.root), Path(whole.root))
    build_events(spark, whole, last)
    wrong = _differing_rows(spark, config, whole) | _wrong_publications(spark, config, record)
    wrong |= _differing_vectors(spark, config, whole, random.Random(seed))
    summary = {
        "soak": "synthetic bank",
        "refreshes": record.num_done,
        "kills": record.num_kills,
        "kills_by_step": record.kills_by_step,
        "customers": customers,
        "events": read_table(spark, event_contract(config), config.root).count(),
        "seconds_median": statistics.median(record.seconds) if record.seconds else None,
        "wrong": wrong,
        "tables": {contract.name: _size(spark, config, contract) for contract in _tables(config)},
    }
    spark.stop()
    print(json.dumps(summary), flush=True)
    if any(wrong.values()):
        raise typer.Exit(1)


def _tables(config: Config) -> list[Contract]:
    own = [event_contract(config), profile_contract(config), state_contract(config), REJECTED]
    return [*own, CUSTOMER_EMBEDDING_HISTORY, CUSTOMER_EMBEDDINGS, RUNS, RUN_METRICS]


def _size(spark: SparkSession, config: Config, contract: Contract) -> dict[str, int]:
    """Rows, files and bytes of the newest version, and bytes on disk with what maintenance has not removed yet."""
    place = table_path(contract, config.root)
    detail = spark.sql(f"describe detail delta.`{place}`").first()
    assert detail is not None
    on_disk = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
    rows = spark.read.format("delta").load(place).count()
    return {"rows": rows, "files": detail["numFiles"], "bytes": detail["sizeInBytes"], "bytes_on_disk": on_disk}


def _differing_rows(spark: SparkSession, config: Config, whole: Config) -> dict[str, int]:
    """Rows of events, profiles and rejected that are lost (only in the whole build) or doubled (only in ours)."""
    wrong = {}
    for contract in (event_contract(config), profile_contract(config), REJECTED):
        ours, theirs = (read_table(spark, contract, one.root) for one in (config, whole))
        wrong[f"{contract.name} lost"] = theirs.exceptAll(ours).count()
        wrong[f"{contract.name} doubled"] = ours.exceptAll(theirs).count()
    return wrong


def _wrong_publications(spark: SparkSession, config: Config, record: Record) -> dict[str, int]:
    """What readers would see wrong: runs that are missing or doubled, and rows that are."""
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, config.root)
    latest = read_table(spark, CUSTOMER_EMBEDDINGS, config.root)
    runs = read_table(spark, RUNS, config.root)
    known = set(_times(runs))
    promised = {as_of_refresh(number) for number in range(record.num_done + 1)}
    counted = history.groupBy("run_id").agg(F.count(F.lit(1)).alias("found"))
    rows_of_runs = runs.join(counted, on="run_id", how="full").fillna(0, ["found", "num_customers"])
    newest = history.groupBy("customer_id").agg(F.max("as_of").alias("as_of"))
    newer = newest.join(latest.select("customer_id", F.col("as_of").alias("served")), on="customer_id", how="inner")
    return {
        "runs missing": len(promised - known),
        "runs doubled": runs.count() - runs.select("run_id").distinct().count(),
        "runs with other rows than recorded": rows_of_runs.where("found <> num_customers").count(),
        "vectors doubled in a run": history.count() - history.select("run_id", "customer_id").distinct().count(),
        "customers doubled": latest.count() - latest.select("customer_id").distinct().count(),
        "customers served with an old vector": newer.where("as_of <> served").count(),
    }


def _times(table: DataFrame) -> list[datetime]:
    """The as_of of its rows, in order. Not collected as such: Spark gives them in this machine's time zone."""
    found = table.select(F.unix_micros("as_of").alias("microseconds")).distinct().collect()
    return sorted(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=row["microseconds"]) for row in found)


def _differing_vectors(spark: SparkSession, config: Config, whole: Config, dice: random.Random) -> dict[str, int]:
    """Vectors that are not those of a full build as of their own time, for some of these times and the newest one."""
    latest = read_table(spark, CUSTOMER_EMBEDDINGS, config.root)
    times = _times(latest)
    chosen = {*dice.sample(times, min(TIMES_COMPARED, len(times))), times[-1]}
    wrong = compared = 0
    for as_of in sorted(chosen):
        build_sequences(spark, whole, as_of, fit_vocabulary=False)
        embed_customers(spark, whole, as_of, model_version=champion_of(whole.root))
        made = read_table(spark, EMBEDDINGS, whole.root).select("customer_id", F.col("embedding").alias("made"))
        served = latest.where(F.col("as_of") == F.lit(as_of))
        wrong += _different(served.join(made, on="customer_id", how="left")).count()
        compared += served.count()
        if as_of == times[-1]:
            absent = made.join(latest, on="customer_id", how="left_anti").count()
            gone = latest.join(made, on="customer_id", how="left_anti").count()
    print(f"{compared} vectors of {len(chosen)} times compared", file=sys.stderr, flush=True)
    return {"vectors different": wrong, "customers without a vector": absent, "customers without events": gone}


def _different(pairs: DataFrame) -> DataFrame:
    apart = F.zip_with("embedding", "made", lambda ours, theirs: F.abs(ours - theirs) > LARGEST_DIFFERENCE)
    return pairs.where(F.col("made").isNull() | F.exists(apart, lambda is_far: F.coalesce(is_far, F.lit(True))))


def _record_file(root: Path) -> Path:
    return root / "soak.json"


def _read_record(root: Path, seed: int) -> Record:
    if not _record_file(root).exists():
        return Record(seed)
    values: Mapping[str, Any] = json.loads(_record_file(root).read_text(encoding="utf-8"))
    record = Record(**values)
    if record.seed != seed:
        raise typer.BadParameter(f"{root} holds a soak of seed {record.seed}; choose another --root")
    return record


def _write_record(root: Path, record: Record) -> None:
    part = _record_file(root).with_suffix(".part")
    part.write_text(json.dumps(asdict(record)), encoding="utf-8")
    os.replace(part, _record_file(root))


if __name__ == "__main__":
    sys.exit(app())
