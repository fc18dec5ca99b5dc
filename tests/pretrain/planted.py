"""Sequence folders with planted patterns, written without Spark, as the manifest describes them.

Every customer has a phase and a period: the category of event i is 3 + (phase + i) % period, the amount follows the
category, the set holds the category's two labels. Whoever reads the neighbours can recover a masked event.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from caspr_spark.config import ModelSection, PretrainSection
from caspr_spark.lineage import file_sha256, fingerprint
from caspr_spark.manifest import (
    CategoricalAttribute,
    Layout,
    Scaling,
    SequenceFile,
    SequenceManifest,
    SetAttribute,
    Split,
    write_manifest,
)

AS_OF = datetime(2024, 1, 1, tzinfo=UTC)
AS_OF_US = round(AS_OF.timestamp() * 1_000_000)
DAY_US = 86_400_000_000
NUM_CATEGORIES = 6
SHOP, COLOUR, LABELS, AMOUNT, REFUND, REGION, AGE = "shop", "colour", "labels", "amount", "refund", "region", "age"

Rows = dict[str, NDArray[Any]]


def layout_of(max_events: int = 16) -> Layout:
    return Layout(
        max_events=max_events,
        categorical=(
            CategoricalAttribute(name=SHOP, num_ids=3 + NUM_CATEGORIES),
            CategoricalAttribute(name=COLOUR, num_ids=5),
        ),
        sets=(SetAttribute(name=LABELS, num_ids=3 + NUM_CATEGORIES + 1, max_values=3),),
        numerical=(AMOUNT, REFUND),
        profile_categorical=(CategoricalAttribute(name=REGION, num_ids=6),),
        profile_numerical=(AGE,),
    )


def planted_rows(num_customers: int, *, max_events: int = 16, seed: int = 0, first_key: int = 0) -> Rows:
    """The columns of the sequence files, [B, ...] each. Some values are absent; padding follows the events."""
    random = np.random.default_rng(seed)
    T, B = max_events, num_customers
    num_events = random.integers(2, T + 1, B)
    phase, period = random.integers(0, 6, (B, 1)), random.choice([2, 3], (B, 1))
    category = (phase + np.arange(T)) % period + 3 * (phase % 2)
    is_real = np.arange(T) < num_events[:, None]
    colour = np.where(random.random((B, T)) < 0.1, 0, 3 + category % 2)
    labels = np.stack([3 + category, 4 + category, np.zeros_like(category)], axis=-1)
    amount = np.expm1(category.astype(np.float64))
    refund = np.where(random.random((B, T)) < 0.5, np.nan, -amount)
    gaps = random.integers(1, 10, (B, T)) * DAY_US
    times = AS_OF_US - DAY_US - gaps[:, ::-1].cumsum(axis=1)[:, ::-1]
    return {
        "customer_id": np.array([f"c{first_key + index}" for index in range(B)]),
        "customer_key": random.integers(-(2**62), 2**62, B),
        "num_events": num_events.astype(np.int32),
        "event_times": np.where(is_real, times, 0).astype(np.int64),
        "categorical": np.where(is_real[..., None], np.stack([3 + category, colour], -1), 0)
        .reshape(B, -1)
        .astype(np.int32),
        "sets": np.where(is_real[..., None], labels, 0).reshape(B, -1).astype(np.int32),
        "numerical": np.where(is_real[..., None], np.stack([amount, refund], -1), 0).reshape(B, -1).astype(np.float32),
        "profile_categorical": random.integers(0, 6, (B, 1)).astype(np.int32),
        "profile_numerical": np.where(random.random((B, 1)) < 0.3, np.nan, 40.0).astype(np.float32),
    }


def planted_scaling(rows: Rows, layout: Layout) -> dict[str, Scaling]:
    """Statistics of the real events, computed plainly."""
    B, T = len(rows["num_events"]), layout.max_events
    is_real = np.arange(T) < rows["num_events"][:, None]

    def entropy(ids: NDArray[Any]) -> Scaling:
        shares = np.unique(ids[ids != 0], return_counts=True)[1] / max((ids != 0).sum(), 1)
        loss = -sum(share * math.log(share) for share in shares)
        return Scaling(count=int((ids != 0).sum()), mean=None, standard_deviation=None, constant_loss=loss)

    def normal(values: NDArray[Any]) -> Scaling:
        known = values[~np.isnan(values)].astype(np.float64)
        logs = np.sign(known) * np.log1p(np.abs(known))
        return Scaling(count=len(known), mean=logs.mean(), standard_deviation=logs.std(), constant_loss=1.0)

    categorical = rows["categorical"].reshape(B, T, -1)[is_real]
    numerical = rows["numerical"].reshape(B, T, -1)[is_real]
    scaling = {attribute.name: entropy(categorical[:, i]) for i, attribute in enumerate(layout.categorical)}
    scaling |= {name: normal(numerical[:, i]) for i, name in enumerate(layout.numerical)}
    scaling |= {name: entropy(rows["profile_categorical"][:, i]) for i, name in enumerate([REGION])}
    scaling |= {name: normal(rows["profile_numerical"][:, i]) for i, name in enumerate([AGE])}
    members = rows["sets"].reshape(B, T, -1)[is_real]
    shares = [float((members == value).any(axis=1).mean()) for value in np.unique(members[members != 0])]
    bernoulli = sum(-s * math.log(s) - (1 - s) * math.log(1 - s) for s in shares if 0 < s < 1)
    scaling[LABELS] = Scaling(count=len(members), mean=None, standard_deviation=None, constant_loss=bernoulli)
    return scaling


@dataclass(frozen=True)
class FilePlan:
    """One file: its split and the rows of each of its row groups."""

    split: Split
    row_groups: tuple[int, ...]


def write_planted(
    folder: Path,
    plans: list[FilePlan],
    *,
    max_events: int = 16,
    seed: int = 0,
    rows: Rows | None = None,
    layout: Layout | None = None,
) -> SequenceManifest:
    """A folder of sequences: one Parquet file a plan, and the manifest. `rows`, `layout`: in place of the planted."""
    folder.mkdir(parents=True)
    layout = layout or layout_of(max_events)
    if rows is None:
        rows = planted_rows(sum(sum(plan.row_groups) for plan in plans), max_events=max_events, seed=seed)
    files, start = [], 0
    for number, plan in enumerate(plans):
        path = folder / f"part-{number}.parquet"
        schema = as_table(rows, slice(0, 1)).schema
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for count in plan.row_groups:
                writer.write_table(as_table(rows, slice(start, start + count)), row_group_size=count)
                start += count
        files.append(
            SequenceFile(
                path=path.name,
                split=plan.split,
                rows=sum(plan.row_groups),
                row_groups=len(plan.row_groups),
                bytes=path.stat().st_size,
                sha256=file_sha256(path),
            )
        )
    manifest = SequenceManifest(
        as_of=AS_OF,
        fingerprint=fingerprint(seed=seed, plans=plans),
        layout=layout,
        vocabulary_version="planted",
        scaling=planted_scaling(rows, layout),
        files=tuple(files),
        lineage={"written_by": "test"},
    )
    write_manifest(manifest, folder)
    return manifest


def as_table(rows: Rows, chosen: slice) -> pa.Table:
    return pa.table({name: pa.array(list(values[chosen])) for name, values in rows.items()})


def model_section(**changes: Any) -> ModelSection:
    small = {
        "objectives": {"masked": 1.0, "future": 0.0},
        "encoder": "caspr",
        "embedding_size": 8,
        "width": 16,
        "num_heads": 2,
        "feed_forward": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "dropout": 0.0,
        "event_dropout": 0.0,
        "values_dropout": 0.0,
        "pooling": "attention",
        "amounts": None,
        "memory_dropout": 0.5,
    }
    return ModelSection.model_validate(small | changes)


FUTURE: dict[str, Any] = {
    "objectives": {"masked": 0.0, "future": 1.0},
    "encoder": "transformer",
    "pooling": "decayed",
    "embedding_size": 24,
}
"""What makes a model section that of the default recipe, small."""
CONTRASTIVE: dict[str, Any] = FUTURE | {"objectives": {"masked": 0.0, "future": 0.0, "contrastive": 1.0}}
NEXT_EVENT: dict[str, Any] = FUTURE | {"objectives": {"masked": 0.0, "future": 0.0, "next_event": 1.0}}


def pretrain_section(**changes: Any) -> PretrainSection:
    quick = {
        "launcher": "single",
        "num_workers": 1,
        "threads": 1,
        "device": "cpu",
        "precision": "auto",
        "mask_share": 0.3,
        "as_of_times": 4,
        "longest_horizon_days": None,
        "batch_size": 64,
        "learning_rate": 0.003,
        "schedule": "constant",
        "weight_decay": 0.0,
        "gradient_clip": 1.0,
        "max_epochs": 2,
        "patience": 2,
        "timeout_seconds": 60,
        "max_restarts": 0,
        "tensorboard": None,
        "own_heads": {"min_customers": 20, "least_auroc": 0.5, "largest_odds_ratio": 4, "on_fail": "stop"},
    }
    return PretrainSection.model_validate(quick | changes)


def times_of(days_before: list[float]) -> list[int]:
    """Microseconds of moments that many days before AS_OF."""
    return [round((AS_OF - timedelta(days=days)).timestamp() * 1_000_000) for days in days_before]
