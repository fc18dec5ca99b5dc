"""Sequence rows -> customer vectors, on the executors, in Arrow batches; the model is loaded once a Python worker."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.errors import UnsafeError
from caspr_spark.model.scoring import LoadedEncoder, load_encoder

_SCORED = "customer_id string, embedding array<float>, last_event_time timestamp, num_events int"


def scored_customers(
    sequences: DataFrame, *, checkpoint: Path, model_version: str, as_of_us: int, threads: int
) -> DataFrame:
    """Sequence rows -> customer_id, embedding, last_event_time, num_events; one row a customer.

    `as_of_us`: microseconds since 1970-01-01 UTC. The job fails with UnsafeError where a worker finds other weights
    than those of `model_version`.
    """
    encoder_columns = load_encoder(checkpoint).columns
    last_event_time = F.timestamp_micros(F.element_at("event_times", F.col("num_events"))).alias("last_event_time")
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
            columns = {name: _flat(batch.column(name), batch.num_rows) for name in encoder.columns}
            vectors = encoder.encode(columns, as_of_us)
            offsets = pa.array(np.arange(batch.num_rows + 1, dtype=np.int32) * vectors.shape[1])
            embedding = pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)))
            yield pa.RecordBatch.from_arrays(
                [batch.column("customer_id"), embedding, batch.column("last_event_time"), batch.column("num_events")],
                names=["customer_id", "embedding", "last_event_time", "num_events"],
            )

    return score


@cache
def _loaded(checkpoint: str, threads: int) -> LoadedEncoder:
    torch.set_num_threads(threads)
    return load_encoder(checkpoint)


def _flat(column: pa.Array, num_rows: int) -> NDArray[np.generic]:
    """[rows, width] of a list column of equal lengths, [rows] of a plain one; no copy."""
    is_list = pa.types.is_list(column.type)
    values: NDArray[np.generic] = (column.flatten() if is_list else column).to_numpy(zero_copy_only=False)
    return values.reshape(num_rows, -1) if is_list else values
