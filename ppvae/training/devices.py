r"""Where a training runs and in which precision."""

__all__ = ["PRECISIONS", "generator_states", "resolve_device", "set_generator_states"]

import os

import torch
from torch import Tensor

# Of the weights; None is the story's own.
PRECISIONS: dict[str, torch.dtype | None] = {
    "auto": None,
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.float32,
}


def resolve_device(device: str) -> torch.device:
    """The device that a name means; `auto` is CUDA where there is one, the process's own one of several under torchrun.

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


def generator_states(device: torch.device) -> list[Tensor]:
    """States of torch's global generators, on the CPU and, where the device is one of CUDA, there."""
    on_cuda = device.type == "cuda"
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if on_cuda else [])]


def set_generator_states(states: list[Tensor], device: torch.device) -> None:
    """Go back to states that `generator_states` gave."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
