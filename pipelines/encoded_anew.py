"""Vectors that an evaluation makes itself, of all customers of a run at once: tasks ask of the same customers."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.evaluate.experiment import UNSEEN, Vectors
from caspr_spark.evaluate.heads import Array
from caspr_spark.model.ablations import profiles_hidden
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.registry import checkpoint_folder
from pipelines.ablated_vectors import ablated_vectors, encoded
from pipelines.recipe_vectors import recipe_vectors, unseen_folds, unseen_vectors
from pipelines.stored_sequences import stored_sequences


class Anew(NamedTuple):
    """Of some customers, in their order."""

    own: Array | None
    """The model's own vectors, where they are others than the published ones: without profiles."""
    others: dict[str, Vectors]
    """Arm -> ablated vectors, those of other recipes, and those of encoders that never saw the test customers."""
    folds: NDArray[np.int64] | None
    """Of `random_splits`; None without the last."""


class EncodedAnew:
    """What the configuration asks for, made when a task first needs it and kept for the others."""

    def __init__(
        self,
        spark: SparkSession,
        config: Config,
        cut: datetime,
        *,
        model_version: str,
        customers: Callable[[], Sequence[str]],
    ) -> None:
        """`customers`: all that any task may ask about, read when they are needed."""
        self.spark, self.config, self.cut, self.model_version = spark, config, cut, model_version
        self.customers = customers
        self._made: dict[bool, tuple[pd.Index, Anew]] = {}

    def of(self, asked: Sequence[str], *, hides_profiles: bool) -> Anew:
        """The vectors of these customers. `hides_profiles`: as of customers of whom no profile is known."""
        evaluate = self.config.evaluate
        if not (hides_profiles or evaluate.ablations or evaluate.recipes or evaluate.unseen_folds):
            return Anew(None, {}, None)
        if hides_profiles not in self._made:
            self._made[hides_profiles] = self._of_all(hides_profiles=hides_profiles)
        customers, made = self._made[hides_profiles]
        places = customers.get_indexer(pd.Index(asked))
        others: dict[str, Vectors] = {
            arm: tuple(one[places] for one in vectors) if isinstance(vectors, tuple) else vectors[places]
            for arm, vectors in made.others.items()
        }
        own = None if made.own is None else made.own[places]
        return Anew(own, others, None if made.folds is None else made.folds[places])

    def _of_all(self, *, hides_profiles: bool) -> tuple[pd.Index, Anew]:
        config, customers = self.config, sorted(self.customers())
        checkpoint = load_checkpoint(checkpoint_folder(config.root, self.model_version))
        stored = stored_sequences(config, self.cut, customers=customers, layout=checkpoint.model.layout)
        own, others, folds = None, dict[str, Vectors](), None
        if hides_profiles:
            stored = stored._replace(columns=profiles_hidden(stored.columns))
            own = encoded(checkpoint, stored)
        if config.evaluate.ablations:
            others |= ablated_vectors(self.spark, config, checkpoint, stored, has_profiles=not hides_profiles)
        others |= recipe_vectors(config, self.cut, stored)
        if config.evaluate.unseen_folds:
            others[UNSEEN], folds = unseen_vectors(config, self.cut, stored), unseen_folds(config, stored)
        return pd.Index(customers), Anew(own, others, folds)
