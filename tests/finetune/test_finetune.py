"""A head, or head and encoder, for somebody's labels: what is planted is learned, what is random is not."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from caspr_spark.aliases import champion_of
from caspr_spark.erase.requests import Request, write_request
from caspr_spark.errors import ConfigError, TemporaryError, UnsafeError
from caspr_spark.manifest import read_manifest, sequences_folder, write_manifest
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.scoring import load_encoder
from caspr_spark.model.task import load_task
from caspr_spark.pretrain import launch
from caspr_spark.pretrain.job import EpochRecord
from caspr_spark.registry import checkpoint_folder, kept_models
from pipelines.erase import _erase_files
from pipelines.finetune import finetuned_folder
from tests.embed.planted_root import planted_root, save_untrained
from tests.finetune.labelled import (
    NUM_CUSTOMERS,
    PLANS,
    ROWS,
    config_of,
    finetuned,
    planted_amount,
    planted_label,
    random_label,
)
from tests.pretrain.planted import AS_OF, AS_OF_US

Train = Literal["head", "encoder"]
TRAINS: list[Train] = ["head", "encoder"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_root(tmp_path_factory.mktemp("finetune") / "root", PLANS)


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "root"))


def result_of(root: Path, name: str = "task") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((finetuned_folder(root, name) / "result.json").read_text())
    return found


def predictions_of(root: Path, name: str = "task") -> pd.DataFrame:
    return pd.read_parquet(finetuned_folder(root, name) / "predictions.parquet")


def weights_of(root: Path, name: str = "task") -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint_folder(finetuned_folder(root, name), result_of(root, name)["checkpoint"])).weights


def encoder_of(root: Path) -> dict[str, torch.Tensor]:
    """The pretrained encoder's, under the same names."""
    weights = load_checkpoint(checkpoint_folder(root, champion_of(root))).weights
    return {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}


@pytest.mark.parametrize("train", TRAINS)
def test_a_planted_label_is_learned_and_a_random_one_is_not(root: Path, train: Train) -> None:
    finetuned(config_of(root), planted_label(), train=train, name="planted")
    finetuned(config_of(root), random_label(), train=train, name="random")

    planted, chance = result_of(root, "planted"), result_of(root, "random")
    assert planted["kind"] == "yes_or_no"
    assert planted["frozen_head"] == "logistic"
    assert planted["scores"]["finetuned"]["auroc"] > 0.95
    assert planted["scores"]["frozen"]["auroc"] > 0.95
    assert abs(chance["scores"]["finetuned"]["auroc"] - 0.5) < 0.15
    assert planted["customers"] == {"training": 240, "validation": 80, "test": 80}
    assert set(planted["seconds"]) == {"finetuned_training", "finetuned_scoring", "frozen"}


@pytest.mark.parametrize("train", TRAINS)
def test_an_amount_is_guessed_in_its_own_unit(root: Path, train: Train) -> None:
    finetuned(config_of(root, max_epochs=30), planted_amount(), train=train)

    result, deviation = result_of(root), planted_amount()["label"].std()
    assert result["kind"] == "how_much"
    assert result["frozen_head"] == "ridge"
    assert set(result["scores"]["finetuned"]) == {"rmse", "mae", "spearman"}
    assert result["scores"]["finetuned"]["rmse"] < 0.6 * deviation
    assert predictions_of(root)["score"].between(800, 1500).all()


def test_the_scores_are_those_of_the_predictions_and_each_labelled_customer_has_one(root: Path) -> None:
    labels = planted_label().sample(300, random_state=1)
    summary = finetuned(config_of(root), labels)

    predictions = predictions_of(root)
    assert list(predictions.columns) == ["customer_id", "score", "part"]
    assert sorted(predictions["customer_id"]) == sorted(labels["customer_id"])
    assert predictions["part"].value_counts().to_dict() == {"training": 180, "validation": 60, "test": 60}
    of_test = predictions[predictions["part"] == "test"].merge(labels, on="customer_id")
    auroc = roc_auc_score(of_test["label"], of_test["score"])
    assert result_of(root)["scores"]["finetuned"]["auroc"] == pytest.approx(auroc)
    assert any(f"auroc: {auroc:.4f} fine-tuned (head)" in note for note in summary.notes)


def test_customers_without_a_label_are_not_trained_on(root: Path) -> None:
    records: list[EpochRecord] = []
    finetuned(config_of(root, max_epochs=1), planted_label()[::4], progress=records.append)

    assert [record.rows for record in records] == [60]


def test_the_head_alone_leaves_every_weight_of_the_encoder_as_it_was(root: Path) -> None:
    finetuned(config_of(root), planted_label(), train="head")

    tuned, pretrained = weights_of(root), encoder_of(root)
    assert [name for name, tensor in pretrained.items() if not torch.equal(tensor, tuned[name])] == []
    assert tuned["head.linear.weight"].abs().max() > 0


def test_the_encoder_learns_at_its_own_lower_rate(root: Path) -> None:
    """Two steps of Adam move no weight by more than two learning rates; at first the head is 0 and asks for nothing."""
    config = config_of(root, batch_size=400, max_epochs=2, learning_rate=0.01, encoder_rate_share=0.01)
    finetuned(config, planted_label(), train="encoder")

    tuned, pretrained = weights_of(root), encoder_of(root)
    moved = max(float((tuned[name] - tensor).abs().max()) for name, tensor in pretrained.items())
    assert 0 < moved < 2.5 * 0.01 * 0.01
    assert tuned["head.linear.weight"].abs().max() > 0.5 * 0.01


@pytest.mark.parametrize("train", TRAINS)
def test_the_same_seed_gives_the_same_model_and_another_seed_another(root: Path, train: Train) -> None:
    config = config_of(root, max_epochs=3)
    finetuned(config, planted_label(), train=train, name="a")
    finetuned(config, planted_label().sample(frac=1, random_state=2), train=train, name="b")
    finetuned(config.model_copy(update={"seed": 4}), planted_label(), train=train, name="c")

    assert result_of(root, "a")["checkpoint"] == result_of(root, "b")["checkpoint"]
    assert result_of(root, "a")["checkpoint"] != result_of(root, "c")["checkpoint"]
    pd.testing.assert_frame_equal(predictions_of(root, "a"), predictions_of(root, "b"))


def test_the_same_command_again_does_nothing_and_another_replaces_the_result(root: Path) -> None:
    config, records = config_of(root, max_epochs=2), list[EpochRecord]()
    first = finetuned(config, planted_label())
    before = (finetuned_folder(root, "task") / "result.json").read_bytes()
    again = finetuned(config, planted_label(), progress=records.append)

    assert (first.changed, again.changed) == (True, False)
    assert again.notes == first.notes
    assert records == []
    assert (finetuned_folder(root, "task") / "result.json").read_bytes() == before

    assert finetuned(config, planted_label(), train="encoder").changed
    assert result_of(root)["train"] == "encoder"
    assert list(kept_models(finetuned_folder(root, "task"))) == [result_of(root)["checkpoint"]]
    assert len(kept_models(root)) == 1  # the registry knows pretrained models alone


def test_the_checkpoint_answers_what_the_predictions_say(root: Path) -> None:
    finetuned(config_of(root, max_epochs=2), planted_amount(), train="encoder")

    task = load_task(checkpoint_folder(finetuned_folder(root, "task"), result_of(root)["checkpoint"]))
    answers = pd.Series(task.answers(ROWS, AS_OF_US), index=ROWS["customer_id"])
    predictions = predictions_of(root).set_index("customer_id")["score"]
    np.testing.assert_allclose(answers[predictions.index], predictions, rtol=1e-5)


def test_a_pretrained_model_is_no_task_model_and_the_other_way_round(root: Path) -> None:
    finetuned(config_of(root, max_epochs=1), planted_label())

    with pytest.raises(UnsafeError, match="weights of another network"):
        load_task(checkpoint_folder(root, champion_of(root)))
    with pytest.raises(UnsafeError, match="weights of another network"):
        load_encoder(checkpoint_folder(finetuned_folder(root, "task"), result_of(root)["checkpoint"]))


def test_two_ranks_train_what_one_process_trains(root: Path) -> None:
    one_batch = {"batch_size": 400, "max_epochs": 4, "patience": 4}
    finetuned(config_of(root, **one_batch), planted_label(), train="encoder", name="one")
    two = config_of(root, pretrain={"launcher": "torchrun", "num_workers": 2}, **one_batch)
    finetuned(two, planted_label(), train="encoder", name="two")

    alone, together = weights_of(root, "one"), weights_of(root, "two")
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=1e-5, msg=name)


def test_a_vocabulary_that_grew_changes_no_answer_of_an_older_model(root: Path) -> None:
    config, folder = config_of(root, max_epochs=2), sequences_folder(root, AS_OF)
    finetuned(config, planted_label(), name="before")
    manifest = read_manifest(folder)
    layout = manifest.layout
    more = tuple(one.model_copy(update={"num_ids": one.num_ids + 2}) for one in layout.categorical)
    grown = {
        "layout": layout.model_copy(update={"categorical": more}),
        "vocabulary_version": "grown",
        "grown_from": (manifest.vocabulary_version,),
    }
    write_manifest(manifest.model_copy(update=grown), folder)

    finetuned(config, planted_label(), name="after")

    pd.testing.assert_frame_equal(predictions_of(root, "before"), predictions_of(root, "after"))


def test_f58_a_model_whose_pretraining_overlaps_the_label_window_is_refused(root: Path) -> None:
    """Labels are about what came at or after the cut."""
    later = {"as_of": AS_OF.replace(year=2025)}
    model = save_untrained(root, read_manifest(sequences_folder(root, AS_OF)).model_copy(update=later), seed=2)
    with pytest.raises(UnsafeError, match=r"trained on events up to 2025-01-01.*, after the cut"):
        finetuned(config_of(root), planted_label(), model=model)
    assert not finetuned_folder(root, "task").exists()


def test_erasing_customers_deletes_what_names_them_and_keeps_the_model(root: Path) -> None:
    finetuned(config_of(root, max_epochs=1), planted_label())
    left = finetuned_folder(root, "task") / "checkpoints" / ".training-killed" / "labels.parquet"
    left.parent.mkdir()
    left.write_bytes(b"labels")

    request = _erase_files(root, Request("R1", requested="", num_customers=1, ids_hash="", program=""))

    assert request.files_erased["finetuned"] == 2
    assert not left.exists()
    assert not (finetuned_folder(root, "task") / "predictions.parquet").exists()
    load_task(checkpoint_folder(finetuned_folder(root, "task"), result_of(root)["checkpoint"]))


def test_an_unfinished_erasure_is_not_passed_by(root: Path) -> None:
    write_request(str(root), Request("R1", requested="", num_customers=1, ids_hash="", program=""))
    with pytest.raises(UnsafeError, match="'R1' was not finished"):
        finetuned(config_of(root, max_epochs=1), planted_label())
    assert not (finetuned_folder(root, "task") / "predictions.parquet").exists()


def test_no_other_training_of_the_root_runs_meanwhile(root: Path) -> None:
    with launch._only_one(root / "checkpoints"), pytest.raises(TemporaryError, match="another training"):
        finetuned(config_of(root), planted_label())


@pytest.mark.parametrize("name", ["", "../up", "Upper", "a b", "/etc"])
def test_a_name_is_no_path(root: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--name: expected a-z"):
        finetuned(config_of(root), planted_label(), name=name)


def test_customers_without_a_sequence_are_named(root: Path) -> None:
    labels = pd.concat([planted_label(), pd.DataFrame({"customer_id": ["x1", "x2"], "label": [0.0, 1.0]})])
    with pytest.raises(ConfigError, match=rf"2 of {NUM_CUSTOMERS + 2} customers have no sequence .* \('x1', 'x2'\)"):
        finetuned(config_of(root), labels)
