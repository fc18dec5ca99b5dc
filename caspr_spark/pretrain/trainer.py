"""The training loop, the same for one process and for many. It reads top to bottom; start at `train`."""

import gc
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.manifest import SequenceManifest, Split, read_manifest
from caspr_spark.model import chance
from caspr_spark.model.batch import Batch, batch_of, by_length, known_columns, rows_of
from caspr_spark.model.chance import CPU
from caspr_spark.model.checkpoint import save_checkpoint
from caspr_spark.model.chunk_threads import ChunkThreads
from caspr_spark.model.network import use_bf16
from caspr_spark.model.wide import tables_of
from caspr_spark.pretrain.chunks import WHOLE_CHUNK, cut
from caspr_spark.pretrain.contrastive import SHORTEST_SLICE
from caspr_spark.pretrain.device import device_of, is_bf16, name_of
from caspr_spark.pretrain.finetune import finetuning
from caspr_spark.pretrain.goal import Goal, pretraining
from caspr_spark.pretrain.job import EpochRecord, Job
from caspr_spark.pretrain.ranks import Ranks
from caspr_spark.pretrain.reader import Rows, SequenceReader
from caspr_spark.pretrain.schedule import learning_rate
from caspr_spark.pretrain.state import TrainingState, UnderWay, load_state, save_state
from caspr_spark.pretrain.tally import Tally
from caspr_spark.pretrain.weights import FlatWeights, adam_step

VALIDATION_EPOCH = 0
"""What is drawn for validation customers is that of this epoch, always: their loss is comparable between epochs."""
ALL_RANKS = 1_008
"""In place of a rank, where all of them draw the same."""
SAVE_SECONDS, SAVE_SHARE = 30.0, 0.05
"""Within an epoch the state is saved so often, and takes no larger share of the time."""


@dataclass(frozen=True)
class Trained:
    """What a rank has at the end."""

    model_version: str | None
    """On rank 0, which writes the checkpoint; None on the others."""
    best_W: Tensor


def train(
    job: Job, ranks: Ranks, *, progress: Callable[[EpochRecord], None], beat: Callable[[], None] = lambda: None
) -> Trained:
    """Train until the validation loss stops falling, keep the best weights, write the checkpoint (rank 0).

    `progress` is called after every epoch; `beat` whenever the ranks have moved on together. All ranks take the same
    decisions, because all that they decide by was summed over them. Raises CasprError, on all ranks alike, when the
    loss is not finite or when customers were lost or repeated on the way.
    """
    torch.manual_seed(job.seed)
    gc.freeze()  # no thread goes on while garbage is collected: do not look for it in all that torch has loaded
    try:
        trainer = _Trainer(job, ranks, beat)
        with trainer.threads:
            return _trained(trainer, progress)
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"{job.stage}: the GPU's memory is full ({error}); lower {job.stage}.batch_size or model.width"
        ) from error
    finally:
        gc.unfreeze()


def _trained(trainer: "_Trainer", progress: Callable[[EpochRecord], None]) -> Trained:
    job, ranks = trainer.job, trainer.ranks
    state = trainer.resumed() or trainer.fresh()
    while state.num_epochs < job.pretrain.max_epochs and not _is_over(state, job.pretrain.patience):
        started = time.monotonic() - (state.under_way.seconds if state.under_way else 0.0)
        epoch = state.num_epochs + 1
        training = trainer.train_epoch(epoch, state, started)
        validation = trainer.validate()
        record = EpochRecord(
            epoch=epoch,
            training_loss=training.loss,
            validation_loss=validation.loss if validation.has_any else None,
            validation_by_attribute=validation.by_attribute,
            is_best=False,
            rows=training.rows,
            seconds=time.monotonic() - started,
            waiting_share=training.waiting_seconds / max(time.monotonic() - started, 1e-9),
            exchange_share=training.exchange_seconds / max(time.monotonic() - started, 1e-9),
        )
        if not math.isfinite(record.judged_loss):
            raise CasprError(
                f"{job.stage}: epoch {epoch}: the validation loss is {record.judged_loss}; nothing was written"
            )
        if state.best is None or record.judged_loss < state.best.judged_loss:
            record = record.model_copy(update={"is_best": True})
            state.best_W.copy_(trainer.flat.weights_W)
        state.curve.append(record)
        state.under_way = None
        if ranks.rank == 0:
            trainer.save_state(state)
            progress(record)
    trainer.check_same_weights(state.best_W)
    trainer.flat.weights_W.data.copy_(state.best_W)
    version = trainer.save(state) if ranks.rank == 0 else None
    return Trained(version, state.best_W)


def _is_over(state: TrainingState, patience: int) -> bool:
    return state.best is not None and state.num_epochs - state.best.epoch >= patience


class _Trainer:
    """What stays the same from epoch to epoch."""

    def __init__(self, job: Job, ranks: Ranks, beat: Callable[[], None]) -> None:
        self.job, self.ranks, self.beat = job, ranks, beat
        self.manifest: SequenceManifest = read_manifest(job.manifest_folder)
        self.as_of_us = round(self.manifest.as_of.timestamp() * 1_000_000)
        shard = {"rank": ranks.rank, "size": ranks.size}
        self.goal: Goal = (pretraining if job.task is None else finetuning)(job, self.manifest)
        self.network, self.objective = self.goal.network, self.goal.objective
        self.training, self.validation = (
            SequenceReader(job.manifest_folder, self.manifest, split, keys=self.goal.keys_of(split), **shard)
            for split in get_args(Split)
        )
        self.device = CPU
        self.objective.fit(self.network, self._all_chunks, ranks)
        self.device = device_of(job.pretrain.device, ranks)
        in_bf16 = job.task is None and is_bf16(job.pretrain.precision, self.device)  # a head is fitted to float32
        self._check_same_device(in_bf16=in_bf16)
        self.network.to(self.device)
        if in_bf16:
            use_bf16(self.network)
        weights = [group.weights for group in self.goal.groups]
        self.flat = FlatWeights(weights, self.objective.size, tables=tables_of(self.network))
        self.next_save = time.monotonic() + SAVE_SECONDS
        self.exchange_seconds = 0.0
        """Of the last step."""
        self.threads = ChunkThreads(job.pretrain.threads if self.device == CPU else 1)
        self.num_steps = max(-(-rows // job.pretrain.batch_size) for rows in self.training.rows_by_rank)
        """Steps an epoch, the same on every rank; a rank that has run out of customers adds nothing to the last."""

    def fresh(self) -> TrainingState:
        weights_W = self.flat.weights_W.detach()
        self.ranks.broadcast_([weights_W])
        zeros_W = torch.zeros_like(weights_W)
        return TrainingState(weights_W, zeros_W, zeros_W.clone(), weights_W.clone())

    def resumed(self) -> TrainingState | None:
        """The state that rank 0 left after its last saved step, if this very training was interrupted."""
        state = load_state(self.job.work_folder)
        self._check_same_state(state)
        if state is not None:
            self.flat.weights_W.data.copy_(state.weights_W)
            state.weights_W = self.flat.weights_W.detach()
            kept = (state.first_moment_W, state.second_moment_W, state.best_W)
            state.first_moment_W, state.second_moment_W, state.best_W = (one.to(self.device) for one in kept)
        return state

    def _check_same_device(self, *, in_bf16: bool) -> None:
        """Raise ConfigError, on all ranks alike, where they would round differently: weights would drift apart."""
        described = f"{name_of(self.device)} {in_bf16}".encode()
        if num_others := self._num_others(torch.tensor(list(hashlib.sha256(described).digest()))):
            raise ConfigError(
                f"{self.job.stage}: {num_others} workers have another kind of device than the first "
                f"({name_of(self.device)} here); give all workers the same, or set pretrain.device to cpu"
            )

    def _check_same_state(self, state: TrainingState | None) -> None:
        """Raise CasprError, on all ranks alike, where they found other states: their sums would not belong together."""
        found = torch.zeros(3, dtype=torch.float64)
        if state is not None:
            step = state.under_way.step if state.under_way else 0
            found = torch.tensor([1 + state.num_epochs, step, state.num_steps], dtype=torch.float64)
        if num_others := self._num_others(found):
            raise CasprError(
                f"{self.job.stage}: {num_others} workers found another saved state than the first in "
                f"{self.job.work_folder}; start again, or remove that folder to begin anew"
            )

    def save_state(self, state: TrainingState) -> None:
        """The next within an epoch is due after SAVE_SECONDS, or later where saving takes long."""
        started = time.monotonic()
        save_state(self.job.work_folder, state)
        ended = time.monotonic()
        self.next_save = ended + max(SAVE_SECONDS, (ended - started) / SAVE_SHARE)

    def train_epoch(self, epoch: int, state: TrainingState, started: float) -> Tally:
        """One pass over the training customers of all ranks, or what is left of it. `started`: by time.monotonic."""
        tally, steps_done = self._tally(), 0
        if (under_way := state.under_way) is not None:
            steps_done = under_way.step
            tally.waiting_seconds, tally.exchange_seconds = under_way.waiting_seconds, under_way.exchange_seconds
            tally.sums_A += under_way.sums_A
            tally.counts_A += under_way.counts_A
        self.network.train()
        batches = self.training.batches(self.job.pretrain.batch_size, shuffle_seed=self._seed(epoch))
        for step in range(1, self.num_steps + 1):
            rows = self._next(batches, tally)
            if step <= steps_done:
                self.beat()
                continue
            sums_A, counts_A = self._step(self._chunks(rows) if rows else [], epoch, step)
            tally.exchange_seconds += self.exchange_seconds
            if counts_A.any():
                settings, moments = self.job.pretrain, (state.first_moment_W, state.second_moment_W)
                rate = learning_rate(settings, state.num_steps, num_steps_an_epoch=self.num_steps)
                rates = [group.rate_share * rate for group in self.goal.groups]
                adam_step(self.flat, moments, rates, num_steps=state.num_steps, weight_decay=settings.weight_decay)
                state.num_steps += 1
            tally.sums_A += sums_A
            tally.counts_A += counts_A
            self.beat()
            if self.ranks.rank == 0 and time.monotonic() >= self.next_save:
                state.under_way = UnderWay(
                    step,
                    tally.sums_A,
                    tally.counts_A,
                    seconds=time.monotonic() - started,
                    waiting_seconds=tally.waiting_seconds,
                    exchange_seconds=tally.exchange_seconds,
                )
                self.save_state(state)
        while self._next(batches, tally):  # none is left, unless rows came twice
            pass
        tally.rows = self._all_rows(tally.rows, self.training, "training")
        if not tally.has_any:
            raise CasprError(
                f"{self.job.manifest_folder}: nothing to learn from: no training customer has two events, of which one "
                f"can be masked or foretold, or (objective contrastive) the {2 * SHORTEST_SLICE} of two slices; check "
                "sequences.max_events and the events"
            )
        return tally

    def _step(self, chunks: list[Batch], epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """The gradient of all ranks, clipped, and (sums_A, counts_A) over them. No chunks: this rank has no more
        customers."""
        self.flat.clear()
        drawn = [self.objective.draw(chunk, epoch=epoch) for chunk in chunks]
        counts_A = torch.zeros(self.objective.size, dtype=torch.float64)
        for chunk, of_chunk in zip(chunks, drawn, strict=True):
            counts_A += self.objective.counts(chunk, of_chunk).cpu()
        self.exchange_seconds = 0.0
        self._exchange(counts_A)
        weights_A = self.objective.weights(counts_A).float().to(self.device)
        seeds = [(self._seed(epoch) * 1_009 + of) * 1_000_003 + step for of in (self.ranks.rank, ALL_RANKS)]
        own_seed, step_seed = (seed * 100_003 % 2**62 for seed in seeds)

        def learned(number: int) -> tuple[Tensor, Sequence[Tensor | None]]:
            with chance.seeded(chunk_seed=own_seed + number, step_seed=step_seed, device=self.device):
                sums_A = self.objective.sums(self.network, chunks[number], drawn[number])
            if not sums_A.requires_grad:
                return sums_A, ()
            loss = (weights_A * sums_A).sum()
            return sums_A.detach(), torch.autograd.grad(loss, self.flat.parameters, allow_unused=True)

        for sums_A, gradients in self.threads.map(learned, range(len(chunks))):
            self.flat.extra.add_(sums_A)
            if gradients:
                self.flat.add(gradients)
        self._exchange(self.flat.message)
        self.flat.sum_rows(self._exchange)
        norm = self.flat.norm()
        loss = (weights_A * self.flat.extra).sum()
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            raise CasprError(
                f"{self.job.stage}: epoch {epoch}, step {step}: the loss is {loss.item()}, its gradient's norm "
                f"{norm.item()}; lower {self.job.stage}.learning_rate or look for damaged values in the sequences; no "
                "checkpoint was written"
            )
        self.flat.scale((self.job.pretrain.gradient_clip / (norm + 1e-6)).clamp(max=1.0))
        return self.flat.extra.double().cpu(), counts_A

    def _exchange(self, tensor: Tensor) -> None:
        if tensor.is_cuda:
            torch.cuda.synchronize()  # what the gradient takes is not the exchange's
        started = time.monotonic()
        self.ranks.sum_(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize()
        self.exchange_seconds += time.monotonic() - started

    def validate(self) -> Tally:
        """One pass over the validation customers; ranks without any add nothing."""
        tally = self._tally()
        self.network.eval()
        batches = self.validation.batches(self.job.pretrain.batch_size, shuffle_seed=None)

        def judged(chunk: Batch) -> tuple[Tensor, Tensor]:
            seeds = {"chunk_seed": 0, "step_seed": self._seed(VALIDATION_EPOCH)}
            with torch.inference_mode(), chance.seeded(**seeds, device=self.device):
                drawn = self.objective.draw(chunk, epoch=VALIDATION_EPOCH)
                sums_A, counts_A = self.objective.sums(self.network, chunk, drawn), self.objective.counts(chunk, drawn)
            return sums_A.cpu(), counts_A.cpu()

        while rows := self._next(batches, tally):
            for sums_A, counts_A in self.threads.map(judged, self._chunks(rows)):
                tally.sums_A += sums_A.double()
                tally.counts_A += counts_A
            self.beat()
        self.ranks.sum_(tally.sums_A)
        self.ranks.sum_(tally.counts_A)
        tally.rows = self._all_rows(tally.rows, self.validation, "validation")
        return tally

    def check_same_weights(self, best_W: Tensor) -> None:
        """Raise CasprError, on all ranks alike, where one has other weights than rank 0."""
        digest = hashlib.sha256(best_W.cpu().numpy().data).digest()
        if num_others := self._num_others(torch.tensor(list(digest))):
            raise CasprError(
                f"{self.job.stage}: {num_others} workers hold other weights than the first; nothing was written"
            )

    def _num_others(self, own: Tensor) -> int:
        """How many ranks have something else than rank 0; the same answer on all."""
        of_rank_0 = own.clone()
        self.ranks.broadcast_([of_rank_0])
        differs = torch.tensor([float(not torch.equal(own, of_rank_0))], dtype=torch.float64)
        self.ranks.sum_(differs)
        return int(differs.item())

    def save(self, state: TrainingState) -> str:
        """Write the checkpoint."""
        curve = [record.model_dump_json() for record in state.curve]
        weights = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        return save_checkpoint(self.job.root, self.goal.record, weights, curve)

    def _tally(self) -> Tally:
        zeros_A = torch.zeros(self.objective.size, dtype=torch.float64)
        return Tally(self.objective, zeros_A, zeros_A.clone())

    def _seed(self, epoch: int) -> int:
        """Of all that is drawn in this epoch and does not depend on the customer alone."""
        return self.job.seed % 2**31 * 100_003 + epoch

    def _all_chunks(self) -> Iterator[Batch]:
        """The training customers of this rank, once, in the order of the files; those of similar length together."""
        for rows in self.training.batches(8 * WHOLE_CHUNK, shuffle_seed=None):
            yield from self._chunks(rows, whole=True)
            self.beat()

    def _next(self, batches: Iterator[Rows], tally: Tally) -> Rows:
        """The next batch; {} at the end."""
        started = time.monotonic()
        rows = next(batches, {})
        tally.waiting_seconds += time.monotonic() - started
        tally.rows += len(rows["num_events"]) if rows else 0
        return rows

    def _chunks(self, rows: Rows, *, whole: bool = False) -> list[Batch]:
        """A batch, cut into chunks of similar length, so that little is spent on padding; a step adds them up.

        `whole`: into chunks of one size, as where customers are compared.
        """
        layout = self.goal.record.layout
        if layout != self.manifest.layout:
            rows = known_columns(rows, layout)
        if whole or self.objective.compares_customers:
            groups = list(by_length(rows["num_events"], most_customers=WHOLE_CHUNK))
        else:
            groups = cut(rows["num_events"], width=self.job.model.width, device=self.device)
        return [batch_of(rows_of(rows, layout, chosen), layout, self.as_of_us).to(self.device) for chosen in groups]

    def _all_rows(self, own_rows: int, reader: SequenceReader, split: Split) -> int:
        """Rows that all ranks saw. Raises CasprError, on all ranks alike, unless every rank saw its own once."""
        expected = reader.rows_by_rank[self.ranks.rank]
        seen = torch.tensor([own_rows, abs(own_rows - expected)], dtype=torch.float64)
        self.ranks.sum_(seen)
        rows, wrong = int(seen[0]), int(seen[1])
        if wrong or rows != reader.total_rows:
            raise CasprError(
                f"{self.job.manifest_folder}: {split}: expected {reader.total_rows} customers an epoch, the reader "
                f"gave {rows} ({wrong} lost or repeated); nothing was written; check the installed petastorm version"
            )
        return rows
