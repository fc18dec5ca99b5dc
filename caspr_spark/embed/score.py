"""Sequence files -> customer vectors, on the executors, in Arrow batches; the model is loaded once a Python worker.

A task reads row groups of its own straight into Arrow: what Spark reads and hands to Python would cost as much again as
a small model does. A row that the model cannot encode takes no other row with it: its batch is halved until it stands
alone.
"""

import gc
import sys
import zipimport
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.config import Runtime
from caspr_spark.errors import UnsafeError
from caspr_spark.manifest import Layout, SequenceManifest
from caspr_spark.model.batch import known_columns
from caspr_spark.model.onnx_encoder import load_onnx_encoder
from caspr_spark.model.scoring import LoadedEncoder, load_encoder

_COLUMNS = ("customer_id", "embedding", "last_event_time", "num_events", "problem")
_SCORED = "customer_id string, embedding array<float>, last_event_time timestamp, num_events int, problem string"
_VECTOR, _TIME = pa.list_(pa.float32()), pa.timestamp("us", tz="UTC")
TASKS_A_CORE = 4
"""At most: a task costs a tenth of a second in itself."""

RowGroup = tuple[str, int]
"""File, and place in it."""


def scored_customers(
    spark: SparkSession,
    folder: Path,
    manifest: SequenceManifest,
    *,
    checkpoint: Path,
    model_version: str,
    as_of_us: int,
    batch_size: int,
    threads: int,
    runtime: Runtime,
) -> DataFrame:
    """customer_id, embedding, last_event_time, num_events, problem; one row a customer of the files that the manifest
    in `folder` names (one at least). Ids beyond the model's own are unknown to it.

    `problem` is null, or says why the sequence cannot be encoded; there is no embedding then. `as_of_us`: microseconds
    since 1970-01-01 UTC. `batch_size`: customers that are held at once. `runtime` onnx: the checkpoint must have its
    ONNX file (`onnx_encoder`). The job fails with UnsafeError where a worker finds other weights than those of
    `model_version`.
    """
    row_groups = [
        (str((folder / file.path).resolve()), number) for file in manifest.files for number in range(file.row_groups)
    ]
    num_tasks = min(len(row_groups), TASKS_A_CORE * spark.sparkContext.defaultParallelism)
    numbers = spark.range(0, len(row_groups), 1, num_tasks)
    load = partial(_loaded, str(checkpoint), model_version, runtime)
    score = _scorer(row_groups, manifest.layout, load, as_of_us, batch_size, threads)
    return numbers.mapInArrow(score, _SCORED)


def _scorer(
    row_groups: list[RowGroup],
    layout: Layout,
    load: Callable[[], LoadedEncoder],
    as_of_us: int,
    batch_size: int,
    threads: int,
) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        encoder = load()
        _forget_archives()
        has_grown = layout != encoder.layout
        encode = partial(_encoded, encoder, as_of_us=as_of_us, has_grown=has_grown, threads=threads)
        columns = list(dict.fromkeys(["customer_id", "num_events", "event_times", *encoder.columns]))
        for numbers in batches:
            for number in numbers.column("id").to_pylist():
                file, place = row_groups[number]
                with pq.ParquetFile(file) as parquet:
                    for batch in parquet.iter_batches(batch_size, [place], columns, use_threads=False):
                        yield from encode(batch)

    return score


def _encoded(
    encoder: LoadedEncoder, batch: pa.RecordBatch, *, as_of_us: int, has_grown: bool, threads: int
) -> Iterator[pa.RecordBatch]:
    """The rows of a batch with their vectors; those of which one cannot be encoded by halves, that one without.

    `has_grown`: the vocabulary has, since the model was trained.
    """
    try:
        columns = {name: _flat(batch.column(name), batch.num_rows) for name in encoder.columns}
        known = known_columns(columns, encoder.layout) if has_grown else columns
        vectors = encoder.encode(known, as_of_us, threads=threads)
    except Exception as error:  # whatever is wrong with one row must not stop the others
        if batch.num_rows > 1:
            middle = batch.num_rows // 2
            for half in (batch.slice(0, middle), batch.slice(middle)):
                yield from _encoded(encoder, half, as_of_us=as_of_us, has_grown=has_grown, threads=threads)
        else:
            yield _with(batch, pa.array([None], _VECTOR), pa.array([f"{type(error).__name__}: {error}"]))
        return
    offsets = pa.array(np.arange(batch.num_rows + 1, dtype=np.int32) * vectors.shape[1])
    embedding = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
    yield _with(batch, embedding, pa.nulls(batch.num_rows, pa.string()))


def _with(batch: pa.RecordBatch, embedding: pa.Array, problem: pa.Array) -> pa.RecordBatch:
    kept = {name: batch.column(name) for name in ("customer_id", "num_events")}
    values = {**kept, "last_event_time": _last_times(batch), "embedding": embedding, "problem": problem}
    return pa.RecordBatch.from_pydict({name: values[name] for name in _COLUMNS})


def _last_times(batch: pa.RecordBatch) -> pa.Array:
    """Of each row the time of its last event; null where it has no event, or more than there are times."""
    times, num_events = batch.column("event_times"), batch.column("num_events").to_numpy(zero_copy_only=False)
    offsets = times.offsets.to_numpy()
    is_known = (num_events >= 1) & (num_events <= np.diff(offsets))
    places = np.where(is_known, offsets[:-1] + num_events - 1, 0).astype(np.int64)
    last = times.values.to_numpy(zero_copy_only=False)[places] if len(times.values) else np.zeros(len(places))
    return pa.array(last.astype(np.int64), mask=~is_known).cast(_TIME)


@cache
def _loaded(checkpoint: str, model_version: str, runtime: Runtime) -> LoadedEncoder:
    encoder = load_encoder(checkpoint) if runtime == "torch" else load_onnx_encoder(Path(checkpoint))
    if encoder.model_version != model_version:
        raise UnsafeError(f"{checkpoint}: expected model {model_version}, found {encoder.model_version}")
    gc.freeze()  # Spark collects garbage after every task, and would go through all that torch has loaded each time
    return encoder


def _forget_archives() -> None:
    """Take archives of modules out of Python's sight until it imports from them again, and then reads them anew.

    Spark has their directories read at the start of every task, a third of a second for its own.
    """
    for path, finder in list(sys.path_importer_cache.items()):
        if isinstance(finder, zipimport.zipimporter):
            del sys.path_importer_cache[path]
            zipimport._zip_directory_cache.pop(finder.archive, None)  # type: ignore[attr-defined]


def _flat(column: pa.Array, num_rows: int) -> NDArray[np.generic]:
    """[rows, width] of a list column, [rows] of a plain one; no copy. Raises UnsafeError unless lengths are equal."""
    is_list = pa.types.is_list(column.type)
    if is_list and len(lengths := pc.list_value_length(column).unique()) > 1:
        raise UnsafeError(f"sequences: arrays of one column have the lengths {lengths.to_pylist()}; rebuild them")
    values: NDArray[np.generic] = (column.flatten() if is_list else column).to_numpy(zero_copy_only=False)
    return values.reshape(num_rows, -1) if is_list else values
