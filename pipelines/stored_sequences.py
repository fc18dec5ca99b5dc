"""The sequences of some customers as of a time, in the memory of the driver: what an evaluation encodes anew."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from caspr_spark.config import Config
from caspr_spark.errors import CasprError
from caspr_spark.manifest import Layout, read_manifest, sequences_folder
from caspr_spark.model.batch import Columns, columns_of, known_columns


class StoredSequences(NamedTuple):
    """Columns as `caspr_spark.model.scoring.encode` takes them, a row a customer."""

    columns: Columns
    as_of_us: int


def stored_sequences(config: Config, cut: datetime, *, customers: Sequence[str], layout: Layout) -> StoredSequences:
    """Those of `customers`, in their order, with the ids that a model of `layout` knows.

    Raises CasprError where they are of a refresh, which holds some customers only.
    """
    folder = sequences_folder(config.root, cut)
    manifest = read_manifest(folder)
    if manifest.kind == "refresh":
        raise CasprError(
            f"evaluate: the sequences as of {cut.isoformat()} are of a refresh and hold some customers only; run "
            "build_sequences for this as_of, or leave out evaluate.ablations and evaluate.recipes"
        )
    names = columns_of(layout)
    read = [pq.read_table(folder / file.path, columns=["customer_id", *names]).to_pandas() for file in manifest.files]
    stored = pd.concat(read).set_index("customer_id").loc[list(customers)]
    columns = known_columns({name: _stacked(stored[name]) for name in names}, layout)
    return StoredSequences(columns, round(cut.timestamp() * 1_000_000))


def _stacked(values: "pd.Series[Any]") -> NDArray[Any]:
    return np.stack(values.to_list()) if values.dtype == object else values.to_numpy()
