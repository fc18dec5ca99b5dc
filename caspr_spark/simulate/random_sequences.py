"""Sequence folders of customers who do anything at random: for benchmarks of reader, trainer and scorer, without Spark.

Nothing can be learned from them but shares and means. All events are there: histories have one length.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from caspr_spark.lineage import file_sha256, fingerprint
from caspr_spark.manifest import CategoricalAttribute, Layout, Scaling, SequenceFile, SequenceManifest, write_manifest
from schemas.vocabulary import FIRST_VALUE_ID

AS_OF = datetime(2024, 1, 1, tzinfo=UTC)
HISTORY_DAYS = 365
NUM_VALUES = (10, 50, 300, 2000)
"""Of the categorical attributes in the setting of the CASPR paper."""


def random_sequences(
    folder: Path,
    *,
    num_customers: int,
    num_events: int,
    num_values: Sequence[int] = NUM_VALUES,
    num_numerical: int = 6,
    num_profile_values: Sequence[int] = (5, 20),
    num_profile_numerical: int = 2,
    row_groups: int = 4,
    seed: int = 1,
) -> SequenceManifest:
    """Write one file of training customers, with a categorical attribute for each of `num_values`, and the manifest."""
    random = np.random.default_rng(seed)
    layout = Layout(
        max_events=num_events,
        categorical=tuple(_attribute(f"category_{number}", size) for number, size in enumerate(num_values)),
        sets=(),
        numerical=tuple(f"number_{number}" for number in range(num_numerical)),
        profile_categorical=tuple(
            _attribute(f"trait_{number}", size) for number, size in enumerate(num_profile_values)
        ),
        profile_numerical=tuple(f"measure_{number}" for number in range(num_profile_numerical)),
    )
    count = num_customers * num_events
    scaling = {}
    for attribute in (*layout.categorical, *layout.profile_categorical):
        loss = math.log(attribute.num_ids - FIRST_VALUE_ID)
        scaling[attribute.name] = Scaling(count=count, mean=None, standard_deviation=None, constant_loss=loss)
    for name in (*layout.numerical, *layout.profile_numerical):
        scaling[name] = Scaling(count=count, mean=0.0, standard_deviation=0.6, constant_loss=1.0)

    def ids(of: Sequence[int], rows: int) -> NDArray[np.int64]:
        return np.stack([random.integers(FIRST_VALUE_ID, FIRST_VALUE_ID + size, rows) for size in of], axis=-1)

    folder.mkdir(parents=True)
    path = folder / "part-0.parquet"
    end_us = round(AS_OF.timestamp() * 1_000_000)
    writer: pq.ParquetWriter | None = None
    size = -(-num_customers // row_groups)
    for start in range(0, num_customers, size):
        rows = min(size, num_customers - start)
        ages_us = random.integers(1, HISTORY_DAYS * 86_400_000_000, (rows, num_events))
        columns = {
            "customer_id": np.array([f"c{number}" for number in range(start, start + rows)]),
            "customer_key": random.integers(-(2**62), 2**62, rows),
            "num_events": np.full(rows, num_events, dtype=np.int32),
            "event_times": end_us - np.sort(ages_us, axis=1)[:, ::-1],
            "categorical": ids(num_values, rows * num_events).reshape(rows, -1).astype(np.int32),
            "numerical": random.normal(size=(rows, num_events * num_numerical)).astype(np.float32),
            "profile_categorical": ids(num_profile_values, rows).astype(np.int32),
            "profile_numerical": random.normal(size=(rows, num_profile_numerical)).astype(np.float32),
        }
        table = pa.table({name: _column(values) for name, values in columns.items()})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=rows)
    assert writer is not None
    writer.close()
    manifest = SequenceManifest(
        as_of=AS_OF,
        fingerprint=fingerprint(seed=seed, num_customers=num_customers, num_events=num_events, layout=layout),
        layout=layout,
        vocabulary_version="random",
        scaling=scaling,
        files=(
            SequenceFile(
                path=path.name,
                split="training",
                rows=num_customers,
                row_groups=-(-num_customers // size),
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
            ),
        ),
        lineage={"written_by": "random_sequences"},
    )
    write_manifest(manifest, folder)
    return manifest


def _attribute(name: str, num_values: int) -> CategoricalAttribute:
    return CategoricalAttribute(name=name, num_ids=FIRST_VALUE_ID + num_values)


def _column(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).reshape(-1)))
