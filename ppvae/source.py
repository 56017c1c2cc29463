r"""The source of a program as a short mark, so that weights can tell whether their program has changed."""

__all__ = ["source_hash"]

import ast
import hashlib
import inspect
import textwrap
from functools import cache
from typing import Any

from torch import nn

OTHERS = ("torch", "pyro", "zuko", "ppvae")


def source_hash(module: nn.Module) -> str:
    """A hash of the classes that a module is made of, comments and layout left out; empty where none can be read.

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
