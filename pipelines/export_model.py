"""A kept model as a file that others can score with."""

from caspr_spark.aliases import known_model
from caspr_spark.config import Config
from caspr_spark.model.onnx_encoder import onnx_encoder
from caspr_spark.registry import checkpoint_folder
from pipelines.summary import Summary


def export_model(config: Config, name: str) -> Summary:
    """The encoder of a model, by its version or alias, as an ONNX file in the model's folder.

    Raises ConfigError where there is no such model or a package is not installed, UnsafeError where it is damaged.
    """
    version = known_model(config.root, name)
    path = onnx_encoder(checkpoint_folder(config.root, version))
    return Summary("models", 1, 1, (f"{version}: {path}, {path.stat().st_size / 2**20:.1f} MiB",))
