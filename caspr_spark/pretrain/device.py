"""Where a worker computes, and in what precision: on a GPU where there is one, otherwise on the processors."""

from typing import Literal

import torch

from caspr_spark.errors import ConfigError
from caspr_spark.model.chance import CPU
from caspr_spark.pretrain.ranks import Ranks


def device_of(setting: Literal["auto", "cpu", "cuda"], ranks: Ranks) -> torch.device:
    """The device of this rank; of several GPUs, those of one host take them in turn.

    Raises ConfigError where the setting asks for a GPU and torch sees none.
    """
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ConfigError(
            f"pretrain.device is cuda, but torch sees no GPU here (torch {torch.__version__} is built {built}); "
            "check nvidia-smi and CUDA_VISIBLE_DEVICES on the host of the worker, or set pretrain.device to auto"
        )
    device = torch.device("cuda", ranks.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)  # where NCCL looks
    return device


def name_of(device: torch.device) -> str:
    """Of the card, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" and torch.cuda.is_available() else device.type


def is_bf16(setting: Literal["auto", "float32", "bf16"], device: torch.device) -> bool:
    """Whether encoder and decoder compute in bfloat16: by themselves on GPUs that can."""
    if setting == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return setting == "bf16"
