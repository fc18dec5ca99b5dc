"""`make bench-distributed`: the same training by each launcher and number of workers, one JSON line each.

    python -m jobs.bench_distributed --customers 8192 --launcher torchrun --launcher horovod --workers 2 --workers 4

The work is that of `jobs/bench_train.py`: a step of all customers, shared out among the workers. The first line is one
process on one thread; `efficiency` is the rate for each processor core that is used, against that line's. With more
workers than cores nothing can be won; it is measured to see what it costs.
"""

import math
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from caspr_spark.simulate.random_sequences import NUM_VALUES, random_sequences
from jobs.bench_train import Recipe, print_line, sequences_of, started

DEFAULT_WORKERS = (2, 4)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench_distributed(
    customers: Annotated[int, typer.Option(min=64, help="Customers, and of a step.")] = 8192,
    events: Annotated[int, typer.Option(min=2, help="Events a customer.")] = 15,
    cores: Annotated[int, typer.Option(min=1, help="Processor cores to use.")] = 2,
    launcher: Annotated[list[str] | None, typer.Option(help="torchrun or horovod; may be given again.")] = None,
    workers: Annotated[list[int] | None, typer.Option(min=1, help="May be given again; default: 2 and 4.")] = None,
    root: Annotated[Path, typer.Option(help="Folder below which all is built anew.")] = Path("data/bench_distributed"),
) -> None:
    """Train with each launcher and number of workers and print one JSON line for each."""
    shutil.rmtree(root, ignore_errors=True)
    shared = math.lcm(*(workers or DEFAULT_WORKERS))  # row groups: every number of workers gets as many each
    about = {"recipe": Recipe.paper, "customers": customers, "events": events, "values": NUM_VALUES[-1]}
    random_sequences(sequences_of(about, root), num_customers=customers, num_events=events, row_groups=shared)
    alone = started({"launcher": "single", "cores": 1, **about}, root)
    print_line("distributed", "single", _with_costs(alone, alone["sequences_per_second"], 1, customers), about)
    for one in launcher or ["torchrun", "horovod"]:
        for number in workers or DEFAULT_WORKERS:
            found = started({"launcher": one, "workers": number, "cores": cores, **about}, root)
            used_cores = min(cores, number * max(1, cores // number))
            told = _with_costs(found, alone["sequences_per_second"], used_cores, customers)
            print_line("distributed", one, told, about | {"cores": cores})


def _with_costs(found: dict[str, float], alone: float, used_cores: int, customers: int) -> dict[str, float]:
    seconds = customers / found["sequences_per_second"]
    return found | {
        "seconds_an_epoch": round(seconds, 2),
        "worker_seconds": round(seconds * found["ranks"], 2),
        "efficiency": round(found["sequences_per_second"] / used_cores / alone, 3),
    }


if __name__ == "__main__":
    sys.exit(app())
