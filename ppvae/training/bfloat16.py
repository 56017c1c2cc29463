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
        ValueError: On a CPU without AMX, where it takes up to a hundred times as long, and on a GPU that emulates it.
    """
    if device.type == "cuda":
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name(device)
            raise ValueError(
                f"expected a GPU that computes in bfloat16 (compute capability 8.0 or newer), got {name}; use "
                "precision='float32'"
            )
    elif not _has_amx():
        raise ValueError(
            "expected a CPU with AMX for precision='bfloat16', got one without, on which it takes many times as long as "
            "float32; use precision='float32'"
        )


@contextmanager
def networks_in_bfloat16(*programs: nn.Module) -> Iterator[None]:
    """Run the networks of stories and guides under `torch.autocast`; what they give comes back in their weights' precision.

    A network is a part of a program that holds no Pyro program itself. Densities, and products that a program writes
    out by itself, keep their precision: a sum over pixels in bfloat16 has no third digit.

    Arguments:
        programs: Stories and guides.
    """
    handles = []
    for network in dict.fromkeys(n for program in programs for n in _networks(program)):
        run = _Autocast(network)
        handles += [
            network.register_forward_pre_hook(run.enter),
            network.register_forward_hook(run.leave, always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Autocast:
    """Enters autocast before a network runs, and leaves it after."""

    def __init__(self, network: nn.Module) -> None:
        weight = next(network.parameters())
        self.kind, self.dtype = weight.device.type, weight.dtype
        self.open: list[Any] = []

    def enter(self, network: nn.Module, inputs: Any) -> None:
        self.open.append(torch.autocast(self.kind, torch.bfloat16))
        self.open[-1].__enter__()

    def leave(self, network: nn.Module, inputs: Any, output: Any) -> Any:
        self.open.pop().__exit__(None, None, None)
        return tree_map(self._back, output)

    def _back(self, value: Any) -> Any:
        halved = isinstance(value, Tensor) and value.dtype == torch.bfloat16
        return value.to(self.dtype) if halved else value


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
