r"""Hashes of programs, weights and rows, by which a run that goes on sees what has changed."""

__all__ = ["fingerprint", "source_hash"]

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

OTHERS = ("torch", "pyro", "zuko", "ppvae")


def source_hash(module: nn.Module) -> str:
    """A hash of the source of a module's classes, without comments; empty if it cannot be read.

    Arguments:
        module: A story or guide; classes of torch, Pyro, zuko and this package do not count.
    """
    kinds: set[Any] = {type(part) for part in module.modules()}
    own = [k for k in kinds if k.__module__.partition(".")[0] not in OTHERS]
    texts = [_text(kind) for kind in sorted(own, key=lambda k: k.__qualname__)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest() if all(texts) and texts else ""


@cache  # a class stays as it was loaded, whatever becomes of its file
def _text(kind: type) -> str:
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(kind))))
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, or made by a program
        return ""


def fingerprint(*parts: nn.Module | Mapping[str, Tensor] | None) -> str:
    """A hash of the weights of modules, and of the numbers of rows.

    Arguments:
        parts: Modules, and rows as name -> `(B, *event)`.
    """
    digest = hashlib.sha256()
    for part in parts:
        tensors: Any = part.state_dict() if isinstance(part, nn.Module) else part or {}
        for name, value in tensors.items():
            digest.update(name.encode())
            if isinstance(value, Tensor):
                numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(numbers.numpy().data)
    return digest.hexdigest()
