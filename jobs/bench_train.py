"""`make bench-train`: sequences a second and memory of pretraining and of scoring, one JSON line each.

    python -m jobs.bench_train --customers 8192 --events 15 --peer "python bench_caspr.py --caspr CASPR --phase {phase}"
    python -m jobs.bench_train --customers 1024 --events 15 --events 128 --events 512 --values 2000 --values 1000000
    python -m jobs.bench_train --customers 1024 --events 256 --recipe default

The work is that of the CASPR paper's setting: 4 categorical attributes (10, 50, 300, 2,000 values) and 6 numerical ones
an event, a profile of 2 and 2; width 16, feed-forward 32, 6 + 6 layers, 8 heads, masked recovery, all customers in one
step; or, with `--recipe default`, that of conf/base.yaml, with all amounts. Values are drawn at random
(caspr_spark/simulate/random_sequences.py): nothing is to be learned, all is to be computed.

Each line is of processes of its own. `pretrain`: the fastest epoch but the first, reading included. `encode`, `tasks`:
the bare encoder, as tasks of Spark score, a process of one thread each; `spark`: stage embed itself, Parquet to
vectors, of the same customers many times over. `feed`: the reader alone, on one thread, 64 events and 10 attributes a
customer, beside a plain read of the same file by Arrow. `peak_rss_mib`: the largest resident set of all these processes
together; `largest_process_mib`: of one of them.
`--peer` alternates with another program; ratios to it hold where seconds do not.
"""

import itertools
import json
import math
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import torch
import typer

import conf
from caspr_spark.config import Config, ModelSection, PretrainSection
from caspr_spark.config_file import load_config
from caspr_spark.manifest import read_manifest
from caspr_spark.model.scoring import load_encoder
from caspr_spark.pretrain.job import EpochRecord
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.reader import SequenceReader
from caspr_spark.registry import checkpoint_folder
from caspr_spark.simulate.random_sequences import AS_OF, NUM_VALUES, random_sequences
from jobs.measuring import PeakMemory, machine, versions

MODEL = {
    "objectives": {"future": 0.0, "masked": 1.0, "contrastive": 0.0, "next_event": 0.0},
    "encoder": "caspr",
    "pooling": "attention",
    "embedding_size": 64,
    "width": 16,
    "num_heads": 8,
    "feed_forward": 32,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "dropout": 0.1,
    "amounts": None,
}
PRETRAIN = {"mask_share": 0.3, "learning_rate": 0.001, "schedule": "constant", "weight_decay": 0.0}
CONF = Path(conf.__file__).parent
FEED_CUSTOMERS, FEED_EVENTS, FEED_BATCH = 20_000, 64, 256
SPARK_SECONDS = 8
"""That a job of Spark takes at least; of a shorter one, what a job costs in itself would be what is measured."""
REPEATS = 3
"""Of a measurement, the first to warm up not counted."""


class Recipe(StrEnum):
    paper = "paper"
    default = "default"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench_train(
    customers: Annotated[int, typer.Option(min=64, help="Customers, and of a step.")] = 8192,
    events: Annotated[list[int] | None, typer.Option(help="Events a customer; may be given again.")] = None,
    values: Annotated[
        list[int] | None, typer.Option(min=1, help="Values of the largest attribute; may be given again.")
    ] = None,
    recipe: Annotated[Recipe, typer.Option(help="The network, and how it is trained.")] = Recipe.paper,
    cores: Annotated[int, typer.Option(min=1, help="Processor cores to use.")] = 2,
    launcher: Annotated[list[str] | None, typer.Option(help="single or torchrun; may be given again.")] = None,
    peer: Annotated[
        str, typer.Option(help="Command of a peer's bench to alternate with; {phase}: train, encode.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often all is measured, one after the other.")] = 1,
    root: Annotated[Path, typer.Option(help="Folder below which all is built anew.")] = Path("data/bench_train"),
    part: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Train and score in the paper's setting and print one JSON line for each."""
    if part:
        _run_part(json.loads(part), root)
        return
    shutil.rmtree(root, ignore_errors=True)
    about: dict[str, Any] = {"customers": FEED_CUSTOMERS, "events": FEED_EVENTS, "values": NUM_VALUES[-1], "cores": 1}
    random_sequences(sequences_of(about, root), num_customers=FEED_CUSTOMERS, num_events=FEED_EVENTS)
    print_line("feed", "single", started({"launcher": "feed", **about}, root), about)
    for num_events, num_values in itertools.product(events or [15], values or [NUM_VALUES[-1]]):
        about = {"recipe": recipe, "customers": customers, "events": num_events, "values": num_values, "cores": cores}
        shutil.rmtree(folder := sequences_of(about, root), ignore_errors=True)
        random_sequences(
            folder,
            num_customers=customers,
            num_events=num_events,
            num_values=(*NUM_VALUES[:-1], num_values),
            row_groups=4 * cores,
        )
        for _ in range(rounds):
            for one in launcher or ["single", "torchrun"]:
                print_line("pretrain", one, started({"launcher": one, **about}, root), about)
            if peer:
                print_line("pretrain", "peer", _of_peer(peer, "train"), about)
            for one in ("tasks", "spark"):
                print_line("encode", one, started({"launcher": one, **about}, root), about)
            if peer:
                print_line("encode", "peer", _of_peer(peer, "encode"), about)


def sequences_of(about: dict[str, Any], root: Path) -> Path:
    return root / f"sequences-{about['events']}-{about['values']}"


def print_line(bench: str, launcher: str, found: dict[str, Any], about: dict[str, Any]) -> None:
    line = {"bench": bench, "launcher": launcher, **found, **about, "versions": versions(), "machine": machine()}
    print(json.dumps(line), flush=True)


def started(part: dict[str, Any], root: Path) -> dict[str, Any]:
    """What a process of its own finds."""
    command = [sys.executable, "-m", "jobs.bench_train", "--root", str(root), "--part", json.dumps(part)]
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # read when torch is loaded, so too late in there
    return dict(json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout))


def _of_peer(command: str, phase: str) -> dict[str, Any]:
    words = shlex.split(command.replace("{phase}", phase))
    found = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    return {"sequences_per_second": found["seq_per_s"], "peak_rss_mib": found["peak_rss_mib"]}


def _run_part(part: dict[str, Any], root: Path) -> None:
    memory = PeakMemory()
    folder, place = sequences_of(part, root), root / f"model-{part['launcher']}"
    shutil.rmtree(place, ignore_errors=True)
    run = {"tasks": _encoded, "spark": _embedded, "feed": _fed}.get(part["launcher"], _trained)
    found = run(part, folder, place)
    own_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # what the samples may have missed
    found["peak_rss_mib"] = round(max(memory.mib(), own_mib))
    found["largest_process_mib"] = round(max(memory.largest_process_mib(), own_mib))
    print(json.dumps(found))
    memory.close()


def sections(part: dict[str, Any], *, max_epochs: int) -> tuple[ModelSection, PretrainSection]:
    config: Config = load_config([CONF / "complete_journey.yaml"])
    ranks = 1 if part["launcher"] == "single" else part.get("workers", part["cores"])
    how = {"launcher": part["launcher"], "num_workers": ranks, "threads": max(1, part["cores"] // ranks)}
    how |= {"max_epochs": max_epochs, "patience": max_epochs}
    model: dict[str, Any]
    if part["recipe"] == Recipe.default:
        model, how = {"amounts": None}, how | {"batch_size": -(-config.pretrain.batch_size // ranks)}
    else:
        model, how = MODEL, PRETRAIN | how | {"batch_size": -(-part["customers"] // ranks)}
    return (
        ModelSection.model_validate(config.model.model_dump() | model),
        PretrainSection.model_validate(config.pretrain.model_dump() | how),
    )


def _trained(part: dict[str, Any], folder: Path, place: Path) -> dict[str, Any]:
    model, how = sections(part, max_epochs=1 + REPEATS)
    epochs: list[EpochRecord] = []
    pretrain(folder, model=model, pretrain=how, seed=1, root=place, progress=epochs.append)
    fastest = min(epochs[1:], key=lambda epoch: epoch.seconds)
    rate = fastest.rows / fastest.seconds
    return {
        "ranks": how.num_workers,
        "sequences_per_second": round(rate, 1),
        "events_per_second": round(rate * part["events"]),
        "waiting_share": round(fastest.waiting_share, 4),
        "exchange_share": round(fastest.exchange_share, 4),
    }


def _model(part: dict[str, Any], folder: Path, place: Path) -> Path:
    """A checkpoint to score with."""
    model, how = sections(part | {"launcher": "single"}, max_epochs=1)
    return checkpoint_folder(place, pretrain(folder, model=model, pretrain=how, seed=1, root=place, progress=None))


def _encoded(part: dict[str, Any], folder: Path, place: Path) -> dict[str, Any]:
    checkpoint = _model(part, folder, place)
    with ProcessPoolExecutor(part["cores"], mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(_rate_of_task, folder, checkpoint, task, part["cores"]) for task in range(part["cores"])]
        rate = sum(task.result() for task in tasks)
    return {
        "ranks": part["cores"],
        "sequences_per_second": round(rate, 1),
        "events_per_second": round(rate * part["events"]),
    }


def _embedded(part: dict[str, Any], folder: Path, place: Path) -> dict[str, Any]:
    from caspr_spark.embed.score import scored_customers  # here: pyspark takes memory that a training has no use for
    from caspr_spark.session import spark_session

    checkpoint, manifest = _model(part, folder, place).resolve(), read_manifest(folder)
    config = load_config([CONF / "complete_journey.yaml"])
    settings = config.spark.settings | {"spark.master": f"local[{part['cores']}]"}
    spark = spark_session("caspr-spark bench", settings, log_file=place / "spark.log")

    def seconds_of(times: int) -> float:
        """Of a job that scores all customers so many times over."""
        scored = scored_customers(
            spark,
            folder,
            manifest.model_copy(update={"files": manifest.files * times}),
            checkpoint=checkpoint,
            model_version=checkpoint.name,
            as_of_us=round(AS_OF.timestamp() * 1_000_000),
            batch_size=config.embed.batch_size,
            threads=1,
            runtime="torch",
        )
        started = time.monotonic()
        scored.write.format("noop").mode("overwrite").save()
        return time.monotonic() - started

    seconds_of(1)
    times = 1
    while (seconds := seconds_of(times)) < SPARK_SECONDS:
        times = math.ceil(times * min(8, 1.2 * SPARK_SECONDS / seconds))
    rate = times * part["customers"] / min(seconds_of(times) for _ in range(REPEATS))
    spark.stop()
    return {
        "ranks": part["cores"],
        "sequences_per_second": round(rate, 1),
        "events_per_second": round(rate * part["events"]),
    }


def _fed(part: dict[str, Any], folder: Path, place: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    reader = SequenceReader(folder, manifest, "training", rank=0, size=1)

    def fed() -> None:
        for rows in reader.batches(FEED_BATCH, shuffle_seed=1):
            assert len(rows["num_events"])

    def plain() -> None:
        file = pq.ParquetFile(folder / manifest.files[0].path)
        for row_group in range(file.num_row_groups):
            file.read_row_group(row_group, columns=reader.columns, use_threads=False)

    seconds: dict[str, list[float]] = {"fed": [], "plain": []}
    for _ in range(1 + REPEATS):  # by turns
        for name, read in (("fed", fed), ("plain", plain)):
            started = time.process_time()
            read()
            seconds[name].append(time.process_time() - started)
    fastest = {name: min(found[1:]) for name, found in seconds.items()}
    return {
        "ranks": 1,
        "sequences_per_second": round(part["customers"] / fastest["fed"], 1),
        "plain_arrow_per_second": round(part["customers"] / fastest["plain"], 1),
        "times_plain_arrow": round(fastest["fed"] / fastest["plain"], 3),
    }


def _rate_of_task(folder: Path, checkpoint: Path, task: int, num_tasks: int) -> float:
    """Customers a second of one of several tasks at a time."""
    torch.set_num_threads(1)
    encoder = load_encoder(checkpoint)
    reader = SequenceReader(folder, read_manifest(folder), "training", rank=task, size=num_tasks)
    (rows,) = reader.batches(reader.total_rows, shuffle_seed=None)
    as_of_us = round(AS_OF.timestamp() * 1_000_000)
    seconds = []
    for _ in range(1 + REPEATS):
        started = time.monotonic()
        encoder.encode(rows, as_of_us)
        seconds.append(time.monotonic() - started)
    return len(rows["num_events"]) / min(seconds[1:])


if __name__ == "__main__":
    sys.exit(app())
