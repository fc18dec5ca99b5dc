"""The manifest of one set of sequences: what the Parquet files hold and where they came from.

It is the only thing that pretraining and scoring need to know about the tables upstream. A row of the files is one
customer (T = `layout.max_events`; events oldest first, padding at the end; arrays are flattened event by event):

    customer_id         string
    customer_key        int64           hash of customer_id, for reproducible randomness
    num_events          int32           real events, 0 < num_events <= T
    event_times         int64[T]        microseconds since 1970-01-01 UTC; 0 where padded
    categorical         int32[T * C]    vocabulary ids; 0 where padded or where the event has no such attribute
    sets                int32[T * S]    S = sum of the sets' max_values; each set's ids first, then 0
    numerical           float32[T * N]  unscaled, in the raw unit; NaN where absent, 0 where padded
    profile_categorical int32[PC]       vocabulary ids; 0 where absent
    profile_numerical   float32[PN]     unscaled; NaN where absent

A column whose width would be 0 is left out of the files.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from caspr_spark.errors import CasprError

MANIFEST_FILE = "manifest.json"
Split = Literal["training", "validation"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CategoricalAttribute(_Record):
    """A categorical attribute whose ids are below `num_ids`."""

    name: str
    num_ids: int


class SetAttribute(_Record):
    """A set-valued attribute: up to `max_values` ids an event, all below `num_ids`."""

    name: str
    num_ids: int
    max_values: int


class Layout(_Record):
    """What the arrays hold, in order. Two layouts that differ cannot share a model."""

    max_events: int
    categorical: tuple[CategoricalAttribute, ...]
    sets: tuple[SetAttribute, ...]
    numerical: tuple[str, ...]
    profile_categorical: tuple[CategoricalAttribute, ...]
    profile_numerical: tuple[str, ...]

    @property
    def set_width(self) -> int:
        """Ids an event takes in the `sets` array, all sets together."""
        return sum(attribute.max_values for attribute in self.sets)

    def before_growth(self, earlier: "Layout") -> "Layout":
        """This layout with no more ids an attribute than `earlier` has: a vocabulary grows by higher ids alone."""
        fields = ("categorical", "sets", "profile_categorical")
        known = {one.name: one.num_ids for field in fields for one in getattr(earlier, field)}
        before = {
            field: tuple(
                one.model_copy(update={"num_ids": min(one.num_ids, known.get(one.name, one.num_ids))})
                for one in getattr(self, field)
            )
            for field in fields
        }
        return self.model_copy(update=before)


class Scaling(_Record):
    """Training statistics of one attribute; mean and deviation are of sign(x) * log1p(|x|), numericals only."""

    count: int
    mean: float | None
    standard_deviation: float | None
    constant_loss: float


class SequenceFile(_Record):
    """One Parquet file; `path` is relative to the manifest's folder."""

    path: str
    split: Split
    rows: int
    row_groups: int
    bytes: int
    sha256: str


class Fit(_Record):
    """What a vocabulary and scaling make of events: what a model must know to read the sequences."""

    layout: Layout
    vocabulary_version: str
    """Of ids and scaling together."""
    grown_from: tuple[str, ...] = ()
    """Versions that this one grew from, newest first: each of their ids means the same here."""
    scaling: dict[str, Scaling]


class SequenceManifest(Fit):
    """Everything about one set of sequences. `fingerprint` identifies the inputs they were made from."""

    as_of: datetime
    fingerprint: str
    files: tuple[SequenceFile, ...]
    lineage: dict[str, str | int]
    touched: str | None = None
    """Of a refresh: the Parquet folder, relative to the manifest's, of the customers (customer_id) that were looked at;
    those without a row in the files have no event before `as_of`. None: all customers were."""
    previous_runs: dict[str, str] = {}
    """Of a refresh: the models (model_version) whose vectors are due, each with the run_id that it goes on from; empty
    where it has none yet."""

    @property
    def kind(self) -> Literal["full", "refresh"]:
        """Whether all customers were looked at, or those that a refresh touched."""
        return "full" if self.touched is None else "refresh"

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def of_split(self, split: Split) -> tuple[SequenceFile, ...]:
        """The files of the training or of the validation customers."""
        return tuple(file for file in self.files if file.split == split)


def sequences_folder(root: str | Path, as_of: datetime) -> Path:
    """Where the sequences of one `as_of` lie."""
    return Path(root) / "sequences" / as_of.strftime("%Y%m%dT%H%M%SZ")


def write_manifest(manifest: SequenceManifest, folder: Path) -> None:
    """Flip `folder` to the files of `manifest`, in one atomic rename."""
    part = folder / f".{MANIFEST_FILE}.part"
    part.write_text(manifest.model_dump_json(indent=1))
    os.replace(part, folder / MANIFEST_FILE)


def read_manifest(folder: Path) -> SequenceManifest:
    """The manifest in `folder`. Raises CasprError where there is none or it cannot be read."""
    path = folder / MANIFEST_FILE
    try:
        return SequenceManifest.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise CasprError(f"{path}: no sequences here; run build_sequences for this as_of first") from None
    except ValidationError as error:
        raise CasprError(f"{path}: not a manifest of this version ({error.error_count()} problems); rebuild") from None
