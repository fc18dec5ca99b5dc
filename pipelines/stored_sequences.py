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

    Raises CasprError where some have none, as most in the sequences of a refresh.
    """
    folder, names = sequences_folder(config.root, cut), columns_of(layout)
    files = [folder / file.path for file in read_manifest(folder).files]
    stored = pd.concat([pq.read_table(file, columns=["customer_id", *names]).to_pandas() for file in files])
    if missing := set(customers) - set(stored["customer_id"]):
        raise CasprError(
            f"{folder}: expected the sequences of {len(customers):,} customers who have a vector, {len(missing):,} are "
            "not there; run build_sequences for this as_of"
        )
    stored = stored.set_index("customer_id").loc[list(customers)]
    columns = known_columns({name: _stacked(stored[name]) for name in names}, layout)
    return StoredSequences(columns, round(cut.timestamp() * 1_000_000))


def _stacked(values: "pd.Series[Any]") -> NDArray[Any]:
    return np.stack(values.to_list()) if values.dtype == object else values.to_numpy()
