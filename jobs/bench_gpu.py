"""`make bench-gpu`: training on a GPU in the paper's setting and in a large one, one JSON line each.

    python -m jobs.bench_gpu --size large --precision bf16 --precision float32

paper: that of `jobs/bench_train.py`, 8,192 customers of 15 events a step. large: the default objective with 12 layers
of width 512, 256 customers of 256 events a step. One worker; of an epoch but the first the fastest, reading included.

`tflops`: what forward and backward pass take for a customer, counted operator by operator (matrix products and
attention) on the CPU, times customers a second. `share_of_peak`: of what the card's maker states for dense products in
that precision; null for a card that is not listed here, where --peak-tflops says it.
"""

import json
import re
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from caspr_spark.config import ModelSection, PretrainSection
from caspr_spark.manifest import SequenceManifest, read_manifest
from caspr_spark.model import forgetting
from caspr_spark.model.batch import batch_of
from caspr_spark.model.network import Network, use_bf16
from caspr_spark.pretrain.combined import Combined
from caspr_spark.pretrain.job import EpochRecord, Job
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.ranks import SingleRank
from caspr_spark.pretrain.reader import SequenceReader
from caspr_spark.simulate.random_sequences import AS_OF, random_sequences
from jobs.bench_train import REPEATS, Recipe, sections
from jobs.measuring import machine, versions

PEAK_TFLOPS = {
    "T4": {"float32": 8.1},
    "V100": {"float32": 15.7},
    "A10": {"float32": 31.2, "bf16": 125.0},
    "L4": {"float32": 30.3, "bf16": 121.0},
    "A100": {"float32": 19.5, "bf16": 312.0},
    "H100": {"float32": 67.0, "bf16": 989.0},
    "H200": {"float32": 67.0, "bf16": 989.0},
}
"""Word of a card's name -> precision -> dense products, 10^12 operations a second, by its data sheet; no TF32."""
SLOWER = {"PCIe", "NVL", "MIG"}
"""Words of cards that have less than that."""
COUNTED_CUSTOMERS = 4
LARGE = {"width": 512, "num_heads": 8, "feed_forward": 2048, "encoder_layers": 12, "embedding_size": 256}


class Size(StrEnum):
    paper = "paper"
    large = "large"


CUSTOMERS, STEP = {Size.paper: 65_536, Size.large: 4096}, {Size.paper: 8192, Size.large: 256}
"""Of an epoch, and of a step."""
EVENTS = {Size.paper: 15, Size.large: 256}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench_gpu(
    size: Annotated[list[Size] | None, typer.Option(help="May be given again; default: both.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="bf16 or float32; may be given again.")] = None,
    customers: Annotated[int | None, typer.Option(min=64, help="Of an epoch; default: 65,536 and 4,096.")] = None,
    peak_tflops: Annotated[float | None, typer.Option(help="Of a card that is not listed here.")] = None,
    device: Annotated[str, typer.Option(help="cpu: to try this command out.")] = "cuda",
    root: Annotated[Path, typer.Option(help="Folder below which all is built anew.")] = Path("data/bench_gpu"),
) -> None:
    """Train on the GPU and print one JSON line a size and precision."""
    if device == "cuda" and not torch.cuda.is_available():
        print(f"bench-gpu: torch {torch.__version__} sees no GPU here; nothing was measured", file=sys.stderr)
        raise typer.Exit(2)
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    shutil.rmtree(root, ignore_errors=True)
    for one in size or list(Size):
        num_customers = customers or CUSTOMERS[one]
        folder = root / f"sequences-{one}"
        manifest = random_sequences(folder, num_customers=num_customers, num_events=EVENTS[one], row_groups=8)
        for number in precision or ["bf16", "float32"]:
            how = {"device": device, "precision": number, "batch_size": min(STEP[one], num_customers)}
            found = _measured(one, how, folder, manifest, root / f"model-{one}-{number}")
            peak = peak_tflops or peak_of(card).get(number)
            found["share_of_peak"] = round(found["tflops"] / peak, 4) if peak else None
            about: dict[str, Any] = {"bench": "gpu", "size": one, "precision": number}
            about |= {"customers": num_customers, "events": EVENTS[one]}
            print(json.dumps(about | found | {"card": card, "versions": versions(), "machine": machine()}), flush=True)


def peak_of(card: str) -> dict[str, float]:
    """Precision -> what PEAK_TFLOPS says of the card; {} where it says nothing."""
    words = set(re.split(r"[ -]", card))
    return {} if words & SLOWER else next((peak for name, peak in PEAK_TFLOPS.items() if name in words), {})


def _measured(size: Size, how: dict[str, Any], folder: Path, manifest: SequenceManifest, place: Path) -> dict[str, Any]:
    model, settings = _sections(size, how)
    epochs: list[EpochRecord] = []
    if how["device"] == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pretrain(folder, model=model, pretrain=settings, seed=1, root=place, progress=epochs.append)
    fastest = min(epochs[1:], key=lambda epoch: epoch.seconds)
    rate = fastest.rows / fastest.seconds
    return {
        "sequences_per_second": round(rate, 1),
        "tokens_per_second": round(rate * EVENTS[size]),
        "tflops": round(rate * operations_a_customer(folder, manifest, model, settings) / 1e12, 6),
        "waiting_share": round(fastest.waiting_share, 4),
        "peak_gpu_mib": round(torch.cuda.max_memory_allocated() / 2**20) if how["device"] == "cuda" else None,
    }


def _sections(size: Size, how: dict[str, Any]) -> tuple[ModelSection, PretrainSection]:
    recipe = Recipe.paper if size is Size.paper else Recipe.default
    part = {"launcher": "single", "recipe": recipe, "cores": 1, "customers": how["batch_size"]}
    model, settings = sections(part, max_epochs=1 + REPEATS)
    if size is Size.large:
        model = ModelSection.model_validate(model.model_dump() | LARGE)
    return model, PretrainSection.model_validate(settings.model_dump() | how)


def operations_a_customer(
    folder: Path, manifest: SequenceManifest, model: ModelSection, settings: PretrainSection
) -> float:
    """Of forward and backward pass, a multiplication with its addition as two."""
    job = Job(manifest_folder=folder, model=model, pretrain=settings, seed=1, root=folder, fingerprint="")
    network, objective = Network(model, manifest.layout, manifest.scaling), Combined(job, manifest)
    reader = SequenceReader(folder, read_manifest(folder), "training", rank=0, size=1)
    first = next(reader.batches(64, shuffle_seed=None))
    rows = {name: np.asarray(values)[:COUNTED_CUSTOMERS] for name, values in first.items()}
    batch = batch_of(rows, manifest.layout, round(AS_OF.timestamp() * 1_000_000))
    objective.fit(network, lambda: iter([batch]), SingleRank())
    use_bf16(network)  # for then no attention is computed in another way than by products
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        patch.object(forgetting, "ROWS", manifest.layout.max_events),  # as on a GPU, all pairs
    ):
        loss = objective.sums(network, batch, objective.draw(batch, epoch=1)).sum()
        torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return float(counter.get_total_flops()) / COUNTED_CUSTOMERS


if __name__ == "__main__":
    sys.exit(app())
