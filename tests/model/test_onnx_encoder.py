"""An ONNX file gives the vectors that torch gives, for any customers; a damaged one is refused, and written anew."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from caspr_spark.errors import ConfigError, UnsafeError
from caspr_spark.model import onnx_encoder as exporting
from caspr_spark.model.checkpoint import save_checkpoint
from caspr_spark.model.network import Network
from caspr_spark.model.onnx_encoder import load_onnx_encoder, onnx_encoder
from caspr_spark.model.scoring import load_encoder
from tests.model.test_checkpoint import record
from tests.pretrain.planted import AS_OF_US, DAY_US, FUTURE, model_section, planted_rows

MODELS: dict[str, dict[str, Any]] = {
    "caspr": {},
    "transformer": FUTURE,
    "mean": FUTURE | {"pooling": "mean"},
    "gru": FUTURE | {"encoder": "gru", "pooling": "last"},
    "none": FUTURE | {"encoder": "none"},
}
FAST = ("caspr", "transformer")
ROWS = planted_rows(300, seed=4)


def saved(root: Path, model: dict[str, Any]) -> Path:
    about = record(section=model_section(**model))
    torch.manual_seed(1)
    network = Network(about.section, about.layout, about.scaling)
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.endswith("gate_D"):
                weights.fill_(0.5)  # at its start the mixer adds nothing
    return root / "checkpoints" / save_checkpoint(root, about, network.state_dict(), [])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = saved(tmp_path_factory.mktemp("onnx"), {})
    onnx_encoder(checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in MODELS]
)
def test_vectors_are_those_of_torch(tmp_path: Path, model: str) -> None:
    """Of one customer and of many, of one event and of many, and as of a later time."""
    checkpoint = saved(tmp_path, MODELS[model])
    path = onnx_encoder(checkpoint)
    of_torch, of_onnx = load_encoder(checkpoint), load_onnx_encoder(checkpoint)

    one_event = {name: values[7:8] for name, values in ROWS.items()} | {"num_events": np.array([1])}
    for rows in (ROWS, {name: values[:1] for name, values in ROWS.items()}, one_event):
        for as_of_us in (AS_OF_US, AS_OF_US + 40 * DAY_US):
            expected = of_torch.encode(rows, as_of_us)
            np.testing.assert_allclose(of_onnx.encode(rows, as_of_us), expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(of_torch.encode(ROWS, AS_OF_US), axis=0).min() > 1e-3
    (output,) = onnx.load(path).graph.output
    assert output.name == "embedding_BE"
    assert output.type.tensor_type.shape.dim[1].dim_value == of_onnx.embedding_size
    assert of_onnx.model_version == checkpoint.name


def test_what_was_exported_is_not_exported_again(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_export", None)
    assert onnx_encoder(exported) == exported / "encoder.onnx"


def test_a_damaged_file_is_refused_and_written_anew(exported: Path) -> None:
    path = exported / "encoder.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UnsafeError, match=r"encoder\.onnx: not what was written"):
        load_onnx_encoder(exported)

    onnx_encoder(exported)
    load_onnx_encoder(exported)


def test_a_file_of_another_export_is_written_anew(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (exported / "encoder.json").read_text()
    monkeypatch.setattr(exporting, "EXPORT_VERSION", 0)
    with pytest.raises(UnsafeError, match="not what was written"):
        load_onnx_encoder(exported)
    monkeypatch.undo()
    assert (exported / "encoder.json").read_text() == before


def test_another_models_file_is_refused(exported: Path, tmp_path: Path) -> None:
    other = saved(tmp_path, {"embedding_size": 9})
    for name in ("encoder.onnx", "encoder.json"):
        (other / name).write_bytes((exported / name).read_bytes())
    with pytest.raises(UnsafeError, match="not what was written for model"):
        load_onnx_encoder(other)


def test_a_model_that_was_not_exported_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnsafeError, match="no ONNX file of this model"):
        load_onnx_encoder(saved(tmp_path, {}))


def test_a_missing_package_is_named(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'caspr-spark\[onnx\]'"):
        load_onnx_encoder(exported)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install 'caspr-spark\[onnx\]'"):
        onnx_encoder(saved(tmp_path, {}))
    assert sorted(json.loads((exported / "encoder.json").read_text())) == [
        "export_version",
        "model_version",
        "sha256",
    ]
