r"""Where a training runs and in which precision."""

__all__ = ["PRECISIONS", "resolve_device"]

import os

import torch

# Of the weights; None is the story's own.
PRECISIONS: dict[str, torch.dtype | None] = {
    "auto": None,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.float32,
}


def resolve_device(device: str) -> torch.device:
    """The device that a name means; `auto` is the process's own CUDA device, else the CPU.

    Raises:
        ValueError: If there is no such device.
    """
    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"expected a device such as auto, cpu or cuda, got '{device}'") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "expected a CUDA device for device='cuda', got a machine or torch build without CUDA; "
            "use device='cpu'"
        )
    return found
