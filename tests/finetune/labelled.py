"""A root with planted sequences, an untrained model, and tables of labels; made and used without Spark."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config, FinetuneSection
from caspr_spark.config_file import load_config
from caspr_spark.pretrain.job import EpochRecord
from pipelines.finetune import finetune
from pipelines.summary import Summary
from tests.pretrain.planted import AS_OF, FilePlan, planted_rows, pretrain_section

PLANS = [FilePlan("training", (150, 100)), FilePlan("validation", (100,)), FilePlan("training", (50,))]
NUM_CUSTOMERS = 400
ROWS = planted_rows(NUM_CUSTOMERS)
SHOP = Path(__file__).parents[2] / "conf" / "complete_journey.yaml"
NO_SESSION = cast(SparkSession, None)
"""Launchers single and torchrun need none."""


def planted_label() -> pd.DataFrame:
    """1 for customers whose categories are the upper three: their first event says so."""
    first_category = ROWS["categorical"][:, 0]
    return pd.DataFrame({"customer_id": ROWS["customer_id"], "label": (first_category >= 6).astype(float)})


def random_label() -> pd.DataFrame:
    label = np.random.default_rng(5).integers(0, 2, NUM_CUSTOMERS).astype(float)
    return planted_label().assign(label=label)


def planted_amount() -> pd.DataFrame:
    """1000 + 50 * the first event's category."""
    return planted_label().assign(label=1000.0 + 50.0 * (ROWS["categorical"][:, 0] - 3))


def config_of(root: Path, *, pretrain: dict[str, Any] | None = None, **finetune: Any) -> Config:
    quick = {
        "batch_size": 32,
        "learning_rate": 0.02,
        "encoder_rate_share": 0.1,
        "schedule": "constant",
        "weight_decay": 0.0,
        "max_epochs": 12,
        "patience": 4,
    }
    return load_config([SHOP]).model_copy(
        update={
            "root": str(root),
            "seed": 3,
            "pretrain": pretrain_section(**(pretrain or {})),
            "finetune": FinetuneSection.model_validate(quick | finetune),
        }
    )


def finetuned(
    config: Config,
    labels: pd.DataFrame,
    *,
    train: Literal["head", "encoder"] = "head",
    name: str = "task",
    model: str | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
) -> Summary:
    file = Path(config.root).parent / "labels.parquet"
    labels.to_parquet(file, index=False)
    return finetune(
        NO_SESSION,
        config,
        AS_OF,
        labels=file,
        name=name,
        model_version=model or champion_of(config.root),
        train=train,
        progress=progress,
    )
