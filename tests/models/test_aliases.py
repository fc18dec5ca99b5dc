"""Which model is in use: one file, changed in one rename, and a switch that can be taken back."""

from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest

from caspr_spark.aliases import (
    Aliases,
    champion_of,
    change_aliases,
    known_model,
    read_aliases,
    rolled_back,
    with_champion,
    with_trained,
)
from caspr_spark.errors import CasprError, ConfigError, UnsafeError
from caspr_spark.manifest import Fit, Layout
from caspr_spark.registry import checkpoint_folder, kept_models, read_card
from pipelines.scored_models import refusal
from tests.models.registered import EMPTY, FIRST, register

FITTED = Fit(layout=EMPTY, vocabulary_version="v", scaling={})


def test_the_first_model_is_champion_and_later_ones_are_challengers(tmp_path: Path) -> None:
    assert read_aliases(tmp_path).scored == ()
    for version in ("m1", "m2", "m3"):
        register(tmp_path, version)
    assert read_aliases(tmp_path) == Aliases(champion="m1", challenger="m3")
    assert champion_of(tmp_path) == "m1"
    assert with_trained(read_aliases(tmp_path), "m1") == read_aliases(tmp_path)


def test_a_root_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CasprError, match="no model yet; run pretrain_model first"):
        champion_of(tmp_path)


def test_f73_champion_and_challenger_change_places_and_back() -> None:
    before = Aliases(champion="m1", challenger="m2")
    switched = with_champion(before, "m2")
    assert switched == Aliases(champion="m2", challenger="m1", former_champions=("m1",))
    assert rolled_back(switched) == before


def test_f73_a_switch_is_taken_back_though_another_model_was_trained_since() -> None:
    retrained = with_trained(with_champion(Aliases(champion="m1", challenger="m2"), "m2"), "m3")
    assert retrained.scored == ("m2", "m3")
    assert rolled_back(retrained) == Aliases(champion="m1", challenger="m3")


def test_f73_two_switches_are_taken_back_one_by_one() -> None:
    twice = with_champion(with_trained(with_champion(Aliases(champion="m1", challenger="m2"), "m2"), "m3"), "m3")
    assert (twice.champion, twice.former_champions) == ("m3", ("m1", "m2"))
    once = rolled_back(twice)
    assert once == Aliases(champion="m2", challenger="m3", former_champions=("m1",))
    assert rolled_back(once).champion == "m1"
    with pytest.raises(ConfigError, match="no switch to take back"):
        rolled_back(rolled_back(once))


def add_former(root: str, name: str) -> None:
    for number in range(20):
        change_aliases(
            root,
            lambda aliases, number=number: aliases.model_copy(  # type: ignore[misc]
                update={"former_champions": (*aliases.former_champions, f"{name}{number}")}
            ),
        )


def test_changes_of_two_processes_at_once_are_both_there(tmp_path: Path) -> None:
    context = get_context("spawn")
    processes = [context.Process(target=add_former, args=(str(tmp_path), name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = read_aliases(tmp_path).former_champions
    assert sorted(found) == sorted(f"{name}{number}" for name in "ab" for number in range(20))


def test_a_damaged_alias_file_is_refused(tmp_path: Path) -> None:
    register(tmp_path, "m1")
    (tmp_path / "checkpoints" / "aliases.json").write_text('{"champion": ')
    with pytest.raises(UnsafeError, match=r"aliases.json: expected champion"):
        champion_of(tmp_path)


def test_models_are_known_by_version_and_alias_and_nothing_else(tmp_path: Path) -> None:
    register(tmp_path, "m1")
    register(tmp_path, "m2", as_of=FIRST + timedelta(days=1))
    names = ("champion", "challenger", "m1", "m2")
    assert [known_model(tmp_path, name) for name in names] == ["m1", "m2", "m1", "m2"]
    for name in ("m3", "../m1", ".lease", "", "aliases.json"):
        with pytest.raises(
            ConfigError, match=r"there is no model '.*'; it has m1 \(champion\), m2 \(challenger\)"
        ) as error:
            known_model(tmp_path, name)
        assert error.value.exit_code == 2


def test_a_damaged_description_hides_one_model_and_no_other(tmp_path: Path) -> None:
    for version in ("m1", "m2"):
        register(tmp_path, version)
    (checkpoint_folder(tmp_path, "m2") / "model.json").write_text("{")
    assert {version: model is not None for version, model in kept_models(tmp_path).items()} == {"m1": True, "m2": False}


def test_a_card_says_what_a_model_was_trained_on(tmp_path: Path) -> None:
    card = read_card(tmp_path, register(tmp_path))
    assert card is not None
    assert (card.customers, card.vocabulary_version, card.loss) == (9, "v", 1.1)


def test_f17_a_flipped_bit_is_a_refusal_and_a_sound_model_is_none(tmp_path: Path) -> None:
    version = register(tmp_path)
    assert refusal(str(tmp_path), version, FITTED) is None
    weights = checkpoint_folder(tmp_path, version) / "weights.safetensors"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    assert isinstance(error := refusal(str(tmp_path), version, FITTED), UnsafeError)
    assert "the file was changed or cut" in str(error)


def test_f71_another_vocabulary_is_a_refusal_unless_it_grew_from_the_models(tmp_path: Path) -> None:
    version = register(tmp_path)
    other = FITTED.model_copy(update={"vocabulary_version": "w"})
    assert "vocabulary_version: model v, data w" in str(refusal(str(tmp_path), version, other))
    assert refusal(str(tmp_path), version, other.model_copy(update={"grown_from": ("v",)})) is None
    longer = Layout.model_validate(EMPTY.model_dump() | {"max_events": 5})
    assert "layout.max_events: model 4, data 5" in str(
        refusal(str(tmp_path), version, FITTED.model_copy(update={"layout": longer}))
    )
