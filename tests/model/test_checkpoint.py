"""A checkpoint is what was written, or it is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import Layout, SequenceManifest
from caspr_spark.model.checkpoint import load_checkpoint, save_checkpoint
from caspr_spark.model.network import Network
from caspr_spark.model.scoring import encode, load_encoder
from caspr_spark.registry import ModelRecord, check_fits, trained_model, verified_index
from tests.pretrain.planted import AS_OF, AS_OF_US, layout_of, model_section, planted_rows, planted_scaling

ROWS = planted_rows(10)
FILES = ["weights.safetensors", "model.json", "curve.jsonl", "checkpoint.json"]


def record(**changes: Any) -> ModelRecord:
    layout = layout_of()
    about = {
        "section": model_section(),
        "layout": layout,
        "scaling": planted_scaling(ROWS, layout),
        "vocabulary_version": "v1",
        "as_of": AS_OF,
        "fingerprint": "f1",
        "seed": 1,
    }
    return ModelRecord.model_validate(about | changes)


def network() -> Network:
    torch.manual_seed(1)
    return Network(record().section, record().layout, record().scaling).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    version = save_checkpoint(tmp_path, record(), network().state_dict(), ['{"epoch": 1}'])
    return tmp_path / "checkpoints" / version


def manifest(**changes: Any) -> SequenceManifest:
    about = record().model_dump(include={"as_of", "layout", "scaling", "vocabulary_version"})
    return SequenceManifest.model_validate(about | {"fingerprint": "f", "files": [], "lineage": {}} | changes)


def test_what_was_saved_gives_the_same_vectors(saved: Path) -> None:
    encoder = load_encoder(saved)

    np.testing.assert_array_equal(
        encoder.encode(ROWS, AS_OF_US), encode(network().encoder, ROWS, layout_of(), AS_OF_US)
    )
    assert encoder.model_version == saved.name
    assert encoder.embedding_size == 8


def test_the_version_is_that_of_the_content_and_of_nothing_else(saved: Path, tmp_path: Path) -> None:
    again = save_checkpoint(tmp_path / "b", record(), network().state_dict(), ['{"epoch": 1, "seconds": 2}'])
    other_weights = {name: tensor + 1e-6 for name, tensor in network().state_dict().items()}

    assert again == saved.name
    assert save_checkpoint(tmp_path / "c", record(), other_weights, []) != saved.name
    assert save_checkpoint(tmp_path / "d", record(seed=2), network().state_dict(), []) != saved.name


def test_a_training_that_was_done_is_found_unless_it_is_damaged(saved: Path, tmp_path: Path) -> None:
    later = save_checkpoint(tmp_path, record(fingerprint="f2"), network().state_dict(), [])

    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == sorted([later, saved.name])
    assert trained_model(tmp_path, "f1") == saved.name
    assert trained_model(tmp_path, "f2") == later
    assert trained_model(tmp_path, "f3") is None
    (saved / "weights.safetensors").write_bytes(b"")
    assert trained_model(tmp_path, "f1") is None


@pytest.mark.parametrize("name", FILES[:3])
def test_f17_a_flipped_bit_is_found(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[-5] ^= 1
    (saved / name).write_bytes(content)

    for read in (load_encoder, verified_index):
        with pytest.raises(UnsafeError, match=f"{name}: expected sha256 .*; the file was changed or cut"):
            read(saved)


@pytest.mark.parametrize("name", FILES)
def test_f17_a_cut_or_missing_file_is_found(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UnsafeError, match=name):
        load_encoder(saved)

    (saved / name).unlink()
    with pytest.raises(CasprError, match=name):
        load_encoder(saved)


def test_f17_a_damaged_checkpoint_is_mended_by_saving_the_same_again(saved: Path, tmp_path: Path) -> None:
    (saved / "weights.safetensors").write_bytes(b"")

    save_checkpoint(tmp_path, record(), network().state_dict(), ['{"epoch": 1}'])

    assert load_checkpoint(saved).model_version == saved.name


class Payload:
    """Runs code where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("with_torch", [True, False])
def test_f91_a_pickle_as_weights_is_refused_unread_even_with_the_right_hash(
    saved: Path, tmp_path: Path, with_torch: bool
) -> None:
    marker, weights = tmp_path / "marker", saved / "weights.safetensors"
    if with_torch:
        torch.save({"weight": Payload(marker)}, weights)
    else:
        weights.write_bytes(pickle.dumps(Payload(marker)))
    _bless(saved)

    with pytest.raises(UnsafeError, match="not a safetensors file"):
        load_encoder(saved)
    assert not marker.exists()


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    described = json.loads((saved / "model.json").read_text())
    described["section"]["width"] = 32
    (saved / "model.json").write_text(json.dumps(described))
    _bless(saved)

    with pytest.raises(UnsafeError, match="weights of another network"):
        load_encoder(saved)


def _bless(folder: Path) -> None:
    """Make checkpoint.json agree with the files, as who wrote them on purpose would."""
    import hashlib

    sha256 = {name: file_sha256(folder / name) for name in FILES[:3]}
    version = hashlib.sha256((sha256[FILES[0]] + sha256[FILES[1]]).encode()).hexdigest()[:12]
    (folder / "checkpoint.json").write_text(json.dumps({"model_version": version, "sha256": sha256}))


def test_sequences_like_those_of_the_training_fit() -> None:
    check_fits(record(), manifest(fingerprint="newer", as_of="2025-01-01T00:00:00Z"))


def test_f71_a_model_of_another_vocabulary_layout_or_scaling_is_refused_and_all_differences_told() -> None:
    layout = record().layout.model_dump() | {"numerical": ("refund", "amount"), "max_events": 17}
    scaling = record().model_dump()["scaling"]
    scaling["amount"]["mean"] += 0.5
    other = manifest(vocabulary_version="v2", layout=Layout.model_validate(layout), scaling=scaling)

    with pytest.raises(UnsafeError) as error:
        check_fits(record(), other)

    message = str(error.value)
    assert "vocabulary_version: model v1, data v2" in message
    assert "layout.max_events: model 16, data 17" in message
    assert "layout.numerical: model (amount, refund), data (refund, amount)" in message
    assert "scaling.amount: model" in message
    assert message.count("\n  - ") == 4


def test_f71_a_model_reads_sequences_of_a_vocabulary_that_grew_from_its_own() -> None:
    layout = record().layout.model_dump()
    layout["categorical"][1]["num_ids"] += 4
    layout["sets"][0]["num_ids"] += 1
    layout["profile_categorical"][0]["num_ids"] += 2
    scaling = record().model_dump()["scaling"]
    scaling["amount"]["mean"] += 0.5  # each model scales by its own
    grown = {"vocabulary_version": "v3", "grown_from": ("v2", "v1"), "scaling": scaling}

    check_fits(record(), manifest(**grown, layout=layout))
    with pytest.raises(UnsafeError, match="vocabulary_version: model v1, data v3"):
        check_fits(record(), manifest(**grown | {"grown_from": ("v2",)}, layout=layout))
    layout["categorical"][0]["num_ids"] -= 1
    with pytest.raises(UnsafeError, match=r"layout.categorical: model .*num_ids=9.*data .*num_ids=8"):
        check_fits(record(), manifest(**grown, layout=layout))


def test_f71_another_attribute_is_refused_though_the_vocabulary_grew() -> None:
    layout = record().layout.model_dump() | {"numerical": ("refund",)}
    with pytest.raises(UnsafeError, match=r"layout.numerical: model \(amount, refund\), data \(refund\)"):
        check_fits(record(), manifest(vocabulary_version="v2", grown_from=("v1",), layout=layout))
