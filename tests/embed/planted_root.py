"""A root with sequences and an untrained model, ready to embed; made without Spark."""

from pathlib import Path

import torch

from caspr_spark.aliases import change_aliases, with_trained
from caspr_spark.manifest import SequenceManifest, sequences_folder
from caspr_spark.model.checkpoint import save_checkpoint
from caspr_spark.model.network import Network
from caspr_spark.registry import ModelRecord
from tests.pretrain.planted import AS_OF, FilePlan, model_section, write_planted


def planted_root(root: Path, plans: list[FilePlan]) -> Path:
    """Sequences as of AS_OF and a champion that fits them."""
    save_untrained(root, write_planted(sequences_folder(root, AS_OF), plans))
    return root


def save_untrained(root: Path, manifest: SequenceManifest, *, seed: int = 1) -> str:
    torch.manual_seed(seed)
    record = ModelRecord(
        section=model_section(),
        layout=manifest.layout,
        scaling=manifest.scaling,
        vocabulary_version=manifest.vocabulary_version,
        as_of=manifest.as_of,
        fingerprint="untrained",
        seed=seed,
    )
    network = Network(record.section, record.layout, record.scaling)
    version = save_checkpoint(root, record, network.state_dict(), [])
    change_aliases(root, lambda aliases: with_trained(aliases, version))
    return version
