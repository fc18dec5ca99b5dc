"""Sequence rows -> customer vectors, on the executors, in Arrow batches; the model is loaded once a Python worker.

A row that the model cannot encode takes no other row with it: its batch is halved until it stands alone.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.errors import UnsafeError
from caspr_spark.model.scoring import LoadedEncoder, load_encoder

_COLUMNS = ("customer_id", "embedding", "last_event_time", "num_events", "problem")
_SCORED = "customer_id string, embedding array<float>, last_event_time timestamp, num_events int, problem string"
_VECTOR = pa.list_(pa.float32())


def scored_customers(
    sequences: DataFrame, *, checkpoint: Path, model_version: str, as_of_us: int, threads: int
) -> DataFrame:
    """Sequence rows -> customer_id, embedding, last_event_time, num_events, problem; one row a customer.

    `problem` is null, or says why the sequence cannot be encoded; there is no embedding then. `as_of_us`: microseconds
    since 1970-01-01 UTC. The job fails with UnsafeError where a worker finds other weights than those of
    `model_version`.
    """
    encoder_columns = load_encoder(checkpoint).columns
    last_event_time = F.timestamp_micros(F.get("event_times", F.col("num_events") - 1)).alias("last_event_time")
    needed = sequences.select("customer_id", last_event_time, *dict.fromkeys(["num_events", *encoder_columns]))
    return needed.mapInArrow(_scorer(str(checkpoint), model_version, as_of_us, threads), _SCORED)


def _scorer(
    checkpoint: str, model_version: str, as_of_us: int, threads: int
) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        encoder = _loaded(checkpoint, threads)
        if encoder.model_version != model_version:
            raise UnsafeError(f"{checkpoint}: expected model {model_version}, found {encoder.model_version}")
        for batch in batches:
            yield from _encoded(encoder, batch, as_of_us)

    return score


def _encoded(encoder: LoadedEncoder, batch: pa.RecordBatch, as_of_us: int) -> Iterator[pa.RecordBatch]:
    """The rows of a batch with their vectors; those of which one cannot be encoded by halves, that one without."""
    try:
        columns = {name: _flat(batch.column(name), batch.num_rows) for name in encoder.columns}
        vectors = encoder.encode(columns, as_of_us)
    except Exception as error:  # whatever is wrong with one row must not stop the others
        if batch.num_rows > 1:
            middle = batch.num_rows // 2
            yield from _encoded(encoder, batch.slice(0, middle), as_of_us)
            yield from _encoded(encoder, batch.slice(middle), as_of_us)
        else:
            yield _with(batch, pa.array([None], _VECTOR), pa.array([f"{type(error).__name__}: {error}"]))
        return
    offsets = pa.array(np.arange(batch.num_rows + 1, dtype=np.int32) * vectors.shape[1])
    embedding = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
    yield _with(batch, embedding, pa.nulls(batch.num_rows, pa.string()))


def _with(batch: pa.RecordBatch, embedding: pa.Array, problem: pa.Array) -> pa.RecordBatch:
    kept = {name: batch.column(name) for name in ("customer_id", "last_event_time", "num_events")}
    values = {**kept, "embedding": embedding, "problem": problem}
    return pa.RecordBatch.from_pydict({name: values[name] for name in _COLUMNS})


@cache
def _loaded(checkpoint: str, threads: int) -> LoadedEncoder:
    torch.set_num_threads(threads)
    return load_encoder(checkpoint)


def _flat(column: pa.Array, num_rows: int) -> NDArray[np.generic]:
    """[rows, width] of a list column, [rows] of a plain one; no copy. Raises UnsafeError unless lengths are equal."""
    is_list = pa.types.is_list(column.type)
    if is_list and len(lengths := pc.list_value_length(column).unique()) > 1:
        raise UnsafeError(f"sequences: arrays of one column have the lengths {lengths.to_pylist()}; rebuild them")
    values: NDArray[np.generic] = (column.flatten() if is_list else column).to_numpy(zero_copy_only=False)
    return values.reshape(num_rows, -1) if is_list else values
