"""Vectors of other recipes, trained on the same sequences as the model: further arms of the evaluation."""

import os
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        arm: averaged([_vectors(folder, stored) for folder in trained_recipe(config, cut, recipe).folders])
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


def averaged(vectors: list[Array]) -> Array:
    """Several vectors [C, E] of each customer -> the mean of the first and of the others, turned onto it.

    Turned by the best rotation and reflection of the standardised numbers (orthogonal Procrustes, Schönemann 1966), so
    that each number keeps the meaning, and the unit, that it has in the first: heads read single numbers.
    """
    first, *others = vectors
    unit_CE, mean_E, deviation_E = _standardised(first)
    turned = [unit_CE]
    for other in others:
        other_CE, _, _ = _standardised(other)
        left, _, right = np.linalg.svd(other_CE.T @ unit_CE)
        turned.append(other_CE @ (left @ right))
    return first if not others else np.mean(turned, axis=0) * deviation_E + mean_E


def _standardised(vectors_CE: Array) -> tuple[Array, Array, Array]:
    """With the means and deviations; a number that is the same for everybody stays 0."""
    mean_E, deviation_E = vectors_CE.mean(axis=0), vectors_CE.std(axis=0)
    varies_E = deviation_E > 1e-12 * (1.0 + np.abs(mean_E))
    return np.where(varies_E, vectors_CE - mean_E, 0.0) / np.where(varies_E, deviation_E, 1.0), mean_E, deviation_E


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
    return load_encoder(folder).encode(stored.columns, stored.as_of_us, threads=os.cpu_count() or 1).astype(float)
