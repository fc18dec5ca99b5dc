"""Whether a training fits into the memory that is there, told before it starts."""

from pathlib import Path

import torch

from caspr_spark.config import ModelSection
from caspr_spark.errors import ConfigError
from caspr_spark.manifest import Layout, SequenceManifest
from caspr_spark.model import fused_block, kernels
from caspr_spark.model.batch import chunk_events
from caspr_spark.model.forgetting import HEADS
from caspr_spark.model.network import Network
from caspr_spark.model.wide import NUM_DRAWN, NUM_FREQUENT, is_wide, tables_of
from caspr_spark.pretrain.chunks import MOST_CUSTOMERS, MOST_EVENTS, WHOLE_CHUNK
from caspr_spark.pretrain.job import Job

GIB = 2**30
COPIES = 4
"""Of all weights, four bytes each: they, two moments of Adam and the best so far. Gradients come on top."""
ROWS = 5
"""Of each row of a table that a step meets: its gradients, their sum, and what Adam moves."""
NUMBERS_A_LAYER = 24
"""That a layer of the network keeps of an event for the gradient, in its width; measured at 17 to 22."""
NUMBERS_A_NARROW_LAYER = 12
"""The same, where both of its halves are computed in one go (`fused_block`); measured at 4 to 9."""
NUMBERS_A_VECTOR = 4
"""That are kept for each number of an event's vector, and on the way to it."""
LOGITS = 3
"""Numbers that are kept for each value that is guessed, where nothing is compiled: logit, probability and gradient."""
SMALL_VOCABULARY = 100_000
"""Values of all attributes; a network of no more is small enough to be made for its shapes."""
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def needed_bytes(network: Network, job: Job, layout: Layout) -> dict[str, int]:
    """What a worker needs beside Python itself, in parts. An estimate, some of it on the high side."""
    tables = tables_of(network)
    num_weights = sum(parameter.numel() for parameter in network.parameters())
    num_dense = num_weights - sum(table.numel() for table in tables)
    met = job.pretrain.batch_size * layout.max_events + NUM_FREQUENT + NUM_DRAWN
    most_values = max([1, *(one.max_values for one in layout.sets)])
    of_rows = sum(min(met * most_values, len(table)) * table.shape[1] for table in tables)
    model, threads = job.model, job.pretrain.threads
    events = max(chunk_events(model.width, most_events=MOST_EVENTS), layout.max_events)
    if model.objectives.contrastive:  # its chunks are of so many customers, whatever their length
        events = max(events, WHOLE_CHUNK * layout.max_events)
    customers = min(MOST_CUSTOMERS, job.pretrain.batch_size)
    attended = events * layout.max_events * model.num_heads if _keeps_scores(model) else 0
    num_ids = [one.num_ids for one in layout.categorical] + [one.num_ids for one in layout.sets]
    num_values = sum(NUM_FREQUENT + NUM_DRAWN if is_wide(number) else number for number in num_ids)
    guessed = 0.0
    if model.objectives.masked:
        guessed += events * job.pretrain.mask_share * num_values
    if model.objectives.next_event:
        guessed += customers * job.pretrain.as_of_times * num_values
    if network.future is not None:
        guessed += customers * job.pretrain.as_of_times * network.future.linear.out_features
    of_chunk = 4 * (events * _kept_of_event(network, job) + 2 * attended + LOGITS * round(guessed))
    return {
        "weights, their gradients and moments": 4 * (num_weights * COPIES + num_dense + ROWS * of_rows),
        f"{threads} chunks of {events:,} events at a time, and their gradients": threads * (of_chunk + 4 * num_dense),
    }


def _kept_of_event(network: Network, job: Job) -> int:
    """Numbers that are kept of an event for the gradient, but for scores and guesses."""
    model = job.model
    is_narrow = (
        fused_block.takes_attention(model.width, model.num_heads)
        and fused_block.takes_feed_forward(model.width, model.feed_forward)
        and job.pretrain.precision != "bf16"
    )
    of_block = NUMBERS_A_NARROW_LAYER if is_narrow else NUMBERS_A_LAYER
    in_encoder = model.encoder_layers * (of_block if model.encoder == "caspr" else NUMBERS_A_LAYER)
    in_decoder = model.decoder_layers * of_block if model.objectives.masked else 0
    of_vectors = NUMBERS_A_VECTOR * network.encoder.event_vectors.size
    return of_vectors + model.width * (NUMBERS_A_LAYER + in_encoder + in_decoder)


def _keeps_scores(model: ModelSection) -> bool:
    """Whether attention keeps a number for each pair of events: torch's may, our own does not."""
    of_torch = not fused_block.takes_attention(model.width, model.num_heads)
    that_forgets = not (kernels.are_there() and model.width // model.num_heads in HEADS)
    of_encoder = {"caspr": of_torch, "transformer": that_forgets}.get(model.encoder, False)
    return of_encoder or (model.objectives.masked > 0 and of_torch)


def check_memory(job: Job, manifest: SequenceManifest) -> None:
    """Raise ConfigError, with the numbers, where the workers of a pretraining need more than this machine has left.

    Spark's workers may be on other machines: of them one is counted.
    """
    layout = manifest.layout
    num_ids = sum(_sizes(layout).values())
    device = "cpu" if num_ids <= SMALL_VOCABULARY else "meta"  # shapes alone, for 150 MB of torch's modules
    with torch.random.fork_rng(devices=[]), torch.device(device):
        network = Network(job.model, layout, manifest.scaling)
    parts = needed_bytes(network, job, layout)
    workers = 1 if job.pretrain.launcher.endswith("_spark") else job.pretrain.num_workers  # Spark's are anywhere
    needed, available = workers * sum(parts.values()), available_bytes()
    if available is None or needed <= available:
        return
    listed = "".join(f"\n  - {size / GIB:.1f} GiB a worker: {what}" for what, size in parts.items())
    sizes = _sizes(layout)
    most = f" ('{max(sizes, key=lambda name: sizes[name])}' alone has {max(sizes.values()):,})" if sizes else ""
    who = "1 worker" if workers == 1 else f"{workers} workers"
    raise ConfigError(
        f"{job.stage}: {who} would need {needed / GIB:.1f} GiB, but {available / GIB:.1f} GiB are free here:{listed}\n"
        f"lower {job.stage}.threads or num_workers or model.width, or let fewer values have an id, by a higher "
        f"sequences.min_count{most}"
    )


def _sizes(layout: Layout) -> dict[str, int]:
    """Attribute -> its ids."""
    categorical = {one.name: one.num_ids for one in (*layout.categorical, *layout.profile_categorical)}
    return categorical | {one.name: one.num_ids for one in layout.sets}


def available_bytes() -> int | None:
    """What the machine has free, and no more than its container may have in all; None: not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    for path in CGROUP_LIMITS:
        try:
            free = min(free, int(path.read_text()))
        except (OSError, ValueError):
            continue  # none, or "max"
    return free
