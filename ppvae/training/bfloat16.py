r"""Networks in bfloat16, densities in the precision of the weights."""

__all__ = ["check_bfloat16", "networks_in_bfloat16"]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def check_bfloat16(device: torch.device) -> None:
    """Refuse bfloat16 where it would be slower than float32.

    Raises:
        ValueError: On a CPU without AMX (up to 100 times slower), and on a GPU that emulates it.
    """
    if device.type == "cuda":
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name(device)
            raise ValueError(
                "expected a GPU that computes in bfloat16 (compute capability 8.0 or newer), got "
                f"{name}; use precision='float32'"
            )
    elif not _has_amx():
        raise ValueError(
            "expected a CPU with AMX for precision='bfloat16', got one without, on which it takes "
            "many times as long as float32; use precision='float32'"
        )


@contextmanager
def networks_in_bfloat16(*programs: nn.Module) -> Iterator[None]:
    """Run the networks of stories and guides under `torch.autocast`.

    A network is a part of a program that holds no Pyro program itself; what it gives comes back in
    its weights' precision. Densities, and products that a program writes out by itself, keep their
    precision: a sum over pixels in bfloat16 has no third digit.

    Arguments:
        programs: Stories and guides.
    """
    handles = []
    for network in dict.fromkeys(n for program in programs for n in _networks(program)):
        weight = next(network.parameters())
        contexts: list[torch.autocast] = []

        def enter(_: Any, inputs: Any, contexts: Any = contexts, weight: Tensor = weight) -> None:
            contexts.append(torch.autocast(weight.device.type, torch.bfloat16))
            contexts[-1].__enter__()

        def leave(
            _: Any, inputs: Any, output: Any, contexts: Any = contexts, weight: Tensor = weight
        ) -> Any:
            contexts.pop().__exit__(None, None, None)
            return tree_map(lambda value: _in_precision_of(weight, value), output)

        handles += [
            network.register_forward_pre_hook(enter),
            network.register_forward_hook(leave, always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_precision_of(weight: Tensor, value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype == torch.bfloat16
    return value.to(weight.dtype) if is_half else value


def _networks(program: nn.Module) -> Iterator[nn.Module]:
    """The largest parts with weights that hold no program."""
    for part in program.children():
        if any(isinstance(inner, PyroModule) for inner in part.modules()):
            yield from _networks(part)
        elif next(part.parameters(), None) is not None and not isinstance(part, nn.ModuleList):
            yield part
        elif isinstance(part, nn.ModuleList):
            yield from _networks(part)


def _has_amx() -> bool:
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
