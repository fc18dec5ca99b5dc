"""The encoder of a checkpoint as an ONNX file, for scoring without torch; and scoring with it.

<root>/checkpoints/<model_version>/
    encoder.onnx    inputs: the tensors of `Batch`, by name and shape; output: embedding_BE, float32
    encoder.json    model_version, version of the export, and SHA-256 of encoder.onnx

Weights and operations are those of torch's encoder, so vectors are the same up to rounding. Events are to be given as
`batch_of` gives them: oldest first, padding wiped.
"""

import contextlib
import hashlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from caspr_spark.errors import ConfigError, UnsafeError
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import Layout
from caspr_spark.model.batch import WIDTHS, Batch
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.network import Encoder
from caspr_spark.model.scoring import LoadedEncoder, network_of
from caspr_spark.registry import read_model, replace_text, sync, verified_index

ONNX, ABOUT = "encoder.onnx", "encoder.json"
OUTPUT = "embedding_BE"
INPUTS = tuple(field.name for field in fields(Batch))
EXAMPLE = (3, 4)
"""Customers and events of the batch that torch looks at; any other numbers do as well."""
_MISSING = "ONNX needs packages that are not installed ({error}); run `pip install 'caspr-spark[onnx]'`"
EXPORT_VERSION = 2
"""Raise it when a change of the code gives another file from the same checkpoint."""


class _About(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model_version: str
    export_version: int
    sha256: str


def onnx_encoder(checkpoint: Path) -> Path:
    """The ONNX file of the checkpoint in this folder; it is written where there is none, or a damaged one.

    Raises UnsafeError where the checkpoint was changed, ConfigError where a package is not installed.
    """
    version = verified_index(checkpoint).model_version
    with contextlib.suppress(UnsafeError):
        _verified(checkpoint, version)
        return checkpoint / ONNX
    part = checkpoint / f".{ONNX}.part"
    try:
        _export(checkpoint, part)
        sync(part)
        about = _About(model_version=version, export_version=EXPORT_VERSION, sha256=file_sha256(part))
        os.replace(part, checkpoint / ONNX)  # a stop between the two files is found by the digest
    finally:
        part.unlink(missing_ok=True)
    replace_text(checkpoint / ABOUT, about.model_dump_json(indent=1))
    return checkpoint / ONNX


def load_onnx_encoder(checkpoint: Path) -> LoadedEncoder:
    """The encoder, computed by ONNX Runtime. Raises UnsafeError where its file is not what was written."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(_MISSING.format(error=error)) from None
    version, model = verified_index(checkpoint).model_version, read_model(checkpoint)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1  # as torch's: see `encode`
    session = onnxruntime.InferenceSession(_verified(checkpoint, version), options, ["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]  # an encoder has no use for some, and they are no inputs

    def vectors_of(batch: Batch) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([OUTPUT], {name: getattr(batch, name).numpy() for name in names})[0]
        return found

    return LoadedEncoder(version, model, vectors_of)


def _verified(checkpoint: Path, version: str) -> bytes:
    """The file, as it was written."""
    path = checkpoint / ONNX
    try:
        about = _About.model_validate_json((checkpoint / ABOUT).read_text())
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UnsafeError(f"{path}: no ONNX file of this model, or a damaged one ({error}); export it again") from None
    found = hashlib.sha256(content).hexdigest()
    if about != _About(model_version=version, export_version=EXPORT_VERSION, sha256=found):
        raise UnsafeError(f"{path}: not what was written for model {version}; export it again")
    return content


class _ForExport(nn.Module):
    """The tensors of a batch -> embedding_BE."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *tensors: Tensor) -> Tensor:
        embedding_BE: Tensor = self.encoder(Batch(*tensors)).embedding_BE
        return embedding_BE


def _export(checkpoint: Path, path: Path) -> None:
    try:
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ConfigError(_MISSING.format(error=error)) from None

    def searchsorted(sorted_sequence: Any, self: Any, **options: Any) -> Any:  # torch's names
        """How many of a row are smaller; torch's other options are not in use."""
        earlier: Any = op.Less(op.Unsqueeze(sorted_sequence, _axes(op, 1)), op.Unsqueeze(self, _axes(op, 2)))
        counted: Any = op.Cast(earlier, to=7)  # int64
        return op.ReduceSum(counted, _axes(op, 2), keepdims=0)

    loaded = load_checkpoint(checkpoint)
    encoder = network_of(loaded).encoder.eval()
    example = _example(loaded.model.layout)
    shapes = tuple(dict.fromkeys(_dynamic(name), torch.export.Dim.DYNAMIC) for name in INPUTS)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _ForExport(encoder),
            tuple(getattr(example, name) for name in INPUTS),
            dynamo=True,
            dynamic_shapes=(shapes,),
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            custom_translation_table={torch.ops.aten.searchsorted.Tensor: searchsorted},
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["model_version"] = loaded.model_version
    program.save(path, external_data=False)


def _axes(op: Any, axis: int) -> Any:
    return op.Constant(value_ints=[axis])


def _dynamic(name: str) -> list[int]:
    """The places of customers and events in a tensor's shape, as its name says it."""
    letters = name.rpartition("_")[2]
    return [place for place, letter in enumerate(letters) if letter in "BT"]


def _example(layout: Layout) -> Batch:
    num_customers, num_events = EXAMPLE
    sizes: dict[str, int | str] = {"B": num_customers, "T": num_events, "C": "categorical", "S": "sets"}
    sizes |= {"N": "numerical", "P": "profile_categorical", "Q": "profile_numerical"}
    tensors = {}
    for name in INPUTS:
        of = [sizes[letter] for letter in name.rpartition("_")[2]]
        shape = [WIDTHS[size](layout) if isinstance(size, str) else size for size in of]
        kind = torch.float32 if "numerical" in name else torch.int64
        tensors[name] = torch.zeros(shape, dtype=torch.bool if name == "is_real_BT" else kind)
    tensors["num_events_B"] += num_events
    tensors["event_times_BT"] += torch.arange(num_events)
    tensors["as_of_B"] += num_events
    tensors["is_real_BT"] |= True
    return Batch(**tensors)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own optimizations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
