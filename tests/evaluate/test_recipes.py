"""Other recipes beside the model: trained once on the same sequences, an arm each, and no model of the root."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config, EvaluateSection
from caspr_spark.evaluate.heads import Array
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.model.scoring import load_encoder
from caspr_spark.registry import kept_models
from pipelines import encoded_anew
from pipelines.recipe_vectors import RECIPES, averaged, recipe_vectors, trained_recipe
from pipelines.stored_sequences import StoredSequences, stored_sequences
from tests.embed.planted_root import planted_root
from tests.finetune.labelled import NO_SESSION, config_of
from tests.pretrain.planted import AS_OF, AS_OF_US, FilePlan, model_section

PLANS = [FilePlan("training", (60,)), FilePlan("validation", (20,))]
CUSTOMERS = [f"c{number}" for number in (7, 3, 61, 20)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_root(tmp_path_factory.mktemp("recipes") / "root", PLANS)


def config_with(root: Path, recipes: dict[str, Any]) -> Config:
    config = config_of(root).model_copy(update={"model": model_section()})
    evaluate = EvaluateSection.model_validate(config.evaluate.model_dump() | {"recipes": recipes})
    return config.model_copy(update={"evaluate": evaluate})


def stored_of(config: Config) -> StoredSequences:
    layout = read_manifest(sequences_folder(config.root, AS_OF)).layout
    return stored_sequences(config, AS_OF, customers=CUSTOMERS, layout=layout)


def test_a_recipe_is_trained_with_its_settings_and_is_no_model_of_the_root(root: Path) -> None:
    models = kept_models(root)
    config = config_with(root, {"mean": {"model": {"pooling": "mean"}, "pretrain": {"max_epochs": 1}}})

    trained = trained_recipe(config, AS_OF, config.evaluate.recipes["mean"])
    (folder,) = trained.folders
    encoder = load_encoder(folder)
    vectors = recipe_vectors(config, AS_OF, stored_of(config))["mean"]

    assert encoder.manifest_requirements.section.pooling == "mean"
    assert encoder.manifest_requirements.section.width == config.model.width
    assert folder.is_relative_to(root / RECIPES)
    assert trained.seconds > 0
    assert kept_models(root) == models
    assert vectors.shape == (len(CUSTOMERS), config.model.embedding_size)


def test_the_same_recipe_is_not_trained_again(root: Path) -> None:
    config = config_with(root, {"short": {"pretrain": {"max_epochs": 1}}})
    first = trained_recipe(config, AS_OF, config.evaluate.recipes["short"])
    assert trained_recipe(config, AS_OF, config.evaluate.recipes["short"]) == first


def test_vectors_are_of_the_customers_that_are_asked_about_in_their_order(root: Path) -> None:
    config = config_with(root, {"short": {"pretrain": {"max_epochs": 1}}})
    stored = stored_of(config)
    (folder,) = trained_recipe(config, AS_OF, config.evaluate.recipes["short"]).folders
    encoder = load_encoder(folder)
    layout = read_manifest(sequences_folder(root, AS_OF)).layout
    alone = [stored_sequences(config, AS_OF, customers=[one], layout=layout) for one in CUSTOMERS]
    expected = np.vstack([encoder.encode(one.columns, AS_OF_US) for one in alone])
    found = recipe_vectors(config, AS_OF, stored)["short"]
    assert np.allclose(found, expected, atol=1e-5)
    assert len({row.tobytes() for row in found}) == len(CUSTOMERS)


def test_tasks_share_what_is_encoded_anew_each_in_its_own_order(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, made = config_with(root, {"short": {"pretrain": {"max_epochs": 1}}}), list[int]()

    def counted(*args: Any) -> dict[str, Any]:
        made.append(1)
        return recipe_vectors(*args)

    monkeypatch.setattr(encoded_anew, "recipe_vectors", counted)
    anew = encoded_anew.EncodedAnew(
        NO_SESSION, config, AS_OF, model_version=champion_of(config.root), customers=lambda: CUSTOMERS
    )
    first = anew.of(CUSTOMERS[:3], hides_profiles=False).others["short"]
    again = anew.of([CUSTOMERS[2], CUSTOMERS[3], CUSTOMERS[0]], hides_profiles=False).others["short"]
    hidden = anew.of(CUSTOMERS[:3], hides_profiles=True)

    expected = recipe_vectors(config, AS_OF, stored_of(config))["short"]
    assert np.allclose(first, expected[:3], atol=1e-5)
    assert np.allclose(again, expected[[2, 3, 0]], atol=1e-5)
    assert len(made) == 2  # with profiles and without
    assert hidden.own is not None
    assert hidden.own.shape == (3, config.model.embedding_size)
    assert anew.of(CUSTOMERS[:1], hides_profiles=False).own is None


def test_several_seeds_are_several_encoders_whose_vectors_stand_together(root: Path) -> None:
    config = config_with(root, {"two": {"seeds": [1, 2], "pretrain": {"max_epochs": 1}}})
    folders = trained_recipe(config, AS_OF, config.evaluate.recipes["two"]).folders
    assert [load_encoder(folder).manifest_requirements.seed for folder in folders] == [1, 2]
    assert len(set(folders)) == 2
    assert recipe_vectors(config, AS_OF, stored_of(config))["two"].shape == (4, 8)


def test_vectors_of_several_seeds_are_averaged_in_the_coordinates_of_the_first() -> None:
    random = np.random.default_rng(0)
    known = random.normal(size=(200, 4))
    rotation = np.linalg.qr(random.normal(size=(4, 4)))[0]
    noisy = [known + random.normal(scale=0.3, size=known.shape) for _ in range(3)]
    first = noisy[0] * [1.0, 10.0, 0.1, 1.0] + [0.0, 5.0, -1.0, 0.0]  # units of its own
    together = averaged([first, noisy[1] @ rotation, noisy[2] @ rotation * 7.0])

    def error(found: Array) -> float:
        standardised = (found - found.mean(axis=0)) / found.std(axis=0)
        return float(np.abs(standardised - known / known.std(axis=0)).mean())

    assert error(together) < 0.75 * error(first)
    assert np.allclose(together.mean(axis=0), first.mean(axis=0))
    assert averaged([first]) is first
