"""Vectors of other recipes, trained on the same sequences as the model: further arms of the evaluation."""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from caspr_spark.config import Config, Recipe
from caspr_spark.evaluate.heads import Array
from caspr_spark.manifest import sequences_folder
from caspr_spark.model.scoring import load_encoder
from caspr_spark.pretrain.job import LeftOut, training_seconds
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.objectives import folds_of
from caspr_spark.registry import checkpoint_folder
from pipelines.stored_sequences import StoredSequences

RECIPES = "recipes"
"""<root>/recipes/checkpoints/: encoders that are scored and nothing else; they have no alias and publish nothing."""


class Trained(NamedTuple):
    """The encoders of a recipe."""

    folders: list[Path]
    """One a seed."""
    seconds: float
    """That their trainings took, together, when they ran."""


def trained_recipe(config: Config, cut: datetime, recipe: Recipe) -> Trained:
    """Train a recipe on the sequences as of the cut, but for what was trained before. Errors are those of pretrain."""
    seeds = recipe.seeds or [config.seed]
    folders = [_trained(config.with_recipe(recipe, seed=seed), cut) for seed in seeds]
    return Trained(folders, sum(map(training_seconds, folders)))


def recipe_vectors(config: Config, cut: datetime, stored: StoredSequences) -> dict[str, Array]:
    """Arm -> float64 [C, E], as of the cut, of the customers of `stored`, in their order."""
    return {
        arm: reduced([_vectors(folder, stored) for folder in trained_recipe(config, cut, recipe).folders])
        for arm, recipe in config.evaluate.recipes.items()
    }


def unseen_vectors(config: Config, cut: datetime, stored: StoredSequences) -> tuple[Array, ...]:
    """Fold by fold: float64 [C, E] of the customers of `stored`, by an encoder that was trained without the fold."""
    num_folds = config.evaluate.unseen_folds
    left_out = [LeftOut(fold=fold, num_folds=num_folds) for fold in range(num_folds)]
    return tuple(_vectors(_trained(config, cut, left_out=one), stored) for one in left_out)


def unseen_folds(config: Config, stored: StoredSequences) -> NDArray[np.int64]:
    """The fold of each customer of `stored`."""
    keys = np.asarray(stored.columns["customer_key"], dtype=np.int64).reshape(-1)
    return folds_of(keys, num_folds=config.evaluate.unseen_folds, seed=config.seed)


def reduced(vectors: list[Array]) -> Array:
    """Several vectors of each customer -> their principal components, as many as one of them has numbers."""
    if len(vectors) == 1:
        return vectors[0]
    together = StandardScaler().fit_transform(np.hstack(vectors))
    components: Array = PCA(min(vectors[0].shape[1], len(together)), random_state=0).fit_transform(together)
    return components


def _trained(config: Config, cut: datetime, *, left_out: LeftOut | None = None) -> Path:
    """The folder of the encoder, trained now unless it was before."""
    root = Path(config.root)
    version = pretrain(
        sequences_folder(config.root, cut),
        model=config.model,
        pretrain=config.pretrain,
        seed=config.seed,
        root=root,
        place=root / RECIPES,
        left_out=left_out,
        progress=None,
    )
    return checkpoint_folder(root / RECIPES, version)


def _vectors(folder: Path, stored: StoredSequences) -> Array:
    """float64 [C, E]."""
    return load_encoder(folder).encode(stored.columns, stored.as_of_us).astype(float)
