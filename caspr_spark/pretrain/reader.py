"""Sequence files -> batches of columns, through Petastorm. Nothing else in this project knows Petastorm.

Petastorm runs code that it finds in `_metadata` and `_common_metadata`; it is given a list of files of ours, never a
folder, and a folder with such files is refused before anything is opened. Row group i, counted over the files in
order of their paths, belongs to rank i modulo the number of ranks.
"""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from caspr_spark.errors import CasprError, ConfigError, UnsafeError
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import SequenceFile, SequenceManifest, Split
from caspr_spark.model.batch import columns_of

FORBIDDEN = ("_metadata", "_common_metadata")
QUEUED_ROW_GROUPS = 2
"""Row groups that wait in memory while the model computes."""
Rows = dict[str, NDArray[Any]]


def check_sequence_files(folder: Path, manifest: SequenceManifest) -> None:
    """Raise UnsafeError, naming the file, unless every file is the one that the manifest means."""
    for file, path in _paths(folder, manifest.files):
        if (found := file_sha256(path)) != file.sha256:
            raise UnsafeError(f"{path}: expected sha256 {file.sha256}, found {found}; rebuild the sequences")


class SequenceReader:
    """The customers of one split that one rank reads."""

    def __init__(
        self,
        folder: Path,
        manifest: SequenceManifest,
        split: Split,
        *,
        rank: int,
        size: int,
        keys: NDArray[np.int64] | None = None,
    ) -> None:
        """`keys` (customer_key): the customers of the split, from any file. None: those of the split's own files.

        Raises UnsafeError for files that are not ours, ConfigError where a training rank would have no row group.
        """
        self.columns = columns_of(manifest.layout)
        self.keys = keys
        placed = _paths(folder, manifest.of_split(split) if keys is None else manifest.files)
        files = sorted(placed, key=lambda pair: pair[0].path)
        self.urls = [_url(path) for _, path in files]
        rows = [count for file, path in files for count in _row_groups(file, path)]
        if keys is not None:
            rows = [count for _, path in files for count in _counts_of(path, keys)]
        if split == "training" and not all(sum(rows[of_rank::size]) for of_rank in range(size)):
            raise ConfigError(
                f"{folder}: {size} workers need a row group of training customers each, found "
                f"{sum(count > 0 for count in rows)}; lower "
                "sequences.customers_per_row_group and rebuild the sequences, or lower pretrain.num_workers"
            )
        self.rank = rank
        self.num_shards = min(size, len(rows))
        shards = [sum(rows[shard :: self.num_shards]) for shard in range(self.num_shards)]
        self.rows_by_rank = shards + [0] * (size - self.num_shards)
        """Customers that each rank must see in an epoch, from the files' footers."""

    @property
    def total_rows(self) -> int:
        return sum(self.rows_by_rank)

    def batches(self, batch_size: int, *, shuffle_seed: int | None) -> Iterator[Rows]:
        """Every customer of this rank once, `batch_size` at a time, the last batch smaller.

        With `shuffle_seed`, row groups and the rows in each come in an order that depends on it alone.
        """
        order = None if shuffle_seed is None else np.random.default_rng([shuffle_seed, self.rank])
        rest: Rows = {}
        for row_group in self._row_groups(shuffle_seed):
            if self.keys is not None:
                is_chosen = np.isin(row_group["customer_key"], self.keys)
                row_group = {name: values[is_chosen] for name, values in row_group.items()}
            if order is not None:
                permutation = order.permutation(len(row_group["num_events"]))
                row_group = {name: values[permutation] for name, values in row_group.items()}
            rest = {name: np.concatenate([rest[name], row_group[name]]) for name in rest} if rest else row_group
            while len(rest["num_events"]) >= batch_size:
                yield {name: values[:batch_size] for name, values in rest.items()}
                rest = {name: values[batch_size:] for name, values in rest.items()}
        if rest and len(rest["num_events"]):
            yield rest

    def _row_groups(self, shuffle_seed: int | None) -> Iterator[Rows]:
        if self.rank >= self.num_shards:
            return
        # Of interfaces that Petastorm still uses, in a thread of its own: a context would be over before they come.
        warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="petastorm")
        from petastorm import make_batch_reader

        reader = make_batch_reader(
            self.urls,
            schema_fields=[f"{name}$" for name in self.columns],
            reader_pool_type="thread",
            workers_count=1,
            results_queue_size=QUEUED_ROW_GROUPS,
            num_epochs=1,
            seed=None if shuffle_seed is None else shuffle_seed % 2**32,
            shuffle_row_groups=shuffle_seed is not None,
            cur_shard=self.rank,
            shard_count=self.num_shards,
        )
        reader._results_queue_reader = _FlatResults(self.columns)
        with reader:
            yield from reader


def customer_keys(folder: Path, files: tuple[SequenceFile, ...]) -> NDArray[np.int64]:
    """customer_key of every customer of these files of the manifest in `folder`."""
    columns = [pq.read_table(path, columns=["customer_key"])["customer_key"] for _, path in _paths(folder, files)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *(column.to_numpy() for column in columns)])


class _FlatResults:
    """Arrow tables -> numpy matrices without a detour over Python rows; takes the place of Petastorm's own class."""

    batched_output = True

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> Rows:
        from petastorm.workers_pool import EmptyResultError

        try:
            table: pa.Table = workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None
        if missing := [name for name in self.columns if name not in table.column_names]:
            raise UnsafeError(f"sequences: columns {', '.join(missing)} cannot be read from the files; rebuild them")
        return {name: _values(table.column(name).combine_chunks(), name) for name in self.columns}


def _values(column: pa.Array, name: str) -> NDArray[Any]:
    """[rows] or, for lists of one length, [rows, length]."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if not pa.types.is_list(column.type):
        values, width = column, None
    else:
        offsets = column.offsets.to_numpy()
        lengths = np.diff(offsets)
        if len(set(lengths.tolist())) > 1 or column.null_count:
            raise UnsafeError(f"sequences: column '{name}' must hold lists of one length; rebuild the sequences")
        values, width = column.flatten(), int(lengths[0]) if len(lengths) else 0
    if values.null_count:
        raise UnsafeError(f"sequences: column '{name}' must not hold nulls, found {values.null_count}; rebuild them")
    flat: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return flat if width is None else flat.reshape(len(column), width)


def _paths(folder: Path, files: tuple[SequenceFile, ...]) -> list[tuple[SequenceFile, Path]]:
    """The files with their places. Raises UnsafeError for a place outside of `folder` or one that Petastorm may run."""
    top = folder.resolve()
    placed = [(file, (folder / file.path).resolve()) for file in files]
    for file, path in placed:
        if not path.is_relative_to(top):
            raise UnsafeError(f"{folder}: the manifest names {file.path}, which is outside of the folder; rebuild")
    for place in sorted({top, *(path.parent for _, path in placed)}):
        for name in FORBIDDEN:
            if os.path.lexists(place / name):
                raise UnsafeError(
                    f"{place / name}: such a file can make the reader run code, and this project writes none; "
                    "find out who put it there, remove it and rebuild the sequences"
                )
    for _, path in placed:
        if not path.is_file():
            raise UnsafeError(f"{path}: the manifest names this file, found none; rebuild the sequences")
    return placed


def _url(path: Path) -> str:
    url = f"file://{path}"
    if urlparse(url).path != str(path):
        raise ConfigError(f"{path}: the reader cannot take a path with '?' or '#'; choose another data root")
    return url


def _row_groups(file: SequenceFile, path: Path) -> list[int]:
    """Rows of each row group, from the footer."""
    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UnsafeError(f"{path}: not a Parquet file ({error}); rebuild the sequences") from None
    rows = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
    if (sum(rows), len(rows)) != (file.rows, file.row_groups):
        raise CasprError(
            f"{path}: the manifest says {file.rows} rows in {file.row_groups} row groups, found {sum(rows)} in "
            f"{len(rows)}; rebuild the sequences"
        )
    return rows


def _counts_of(path: Path, keys: NDArray[np.int64]) -> list[int]:
    """Rows of each row group whose customer_key is among `keys`."""
    file = pq.ParquetFile(path)
    groups = (file.read_row_group(index, columns=["customer_key"]) for index in range(file.num_row_groups))
    return [int(np.isin(group["customer_key"].to_numpy(), keys).sum()) for group in groups]
