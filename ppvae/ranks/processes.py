r"""One process among several that torchrun started: which rows are its own, and what all of them have together.

Everything here is what it would be in a process alone where `torch.distributed` has not been set up.
"""

__all__ = [
    "agreed",
    "all_of",
    "alone",
    "answering",
    "is_first",
    "joined",
    "num_ranks",
    "of_first",
    "own_device",
    "own_part",
    "rank",
    "summed",
    "told",
    "wait",
]

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ppvae.ranks.part import Part, parts_of

T = TypeVar("T")
_alone: ContextVar[bool] = ContextVar("alone", default=False)
# What torch says where another process is gone, by the backend that says it.
LOST = ("gloo", "nccl", "connection", "process group", "peer")


def num_ranks() -> int:
    """Number of processes that share the work at hand."""
    return dist.get_world_size() if _is_set_up() and not _alone.get() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if _is_set_up() and not _alone.get() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return not _is_set_up() or dist.get_rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Work by itself in the block: others do other things meanwhile."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def own_part(total: int) -> Part:
    """This process's part of so many rows."""
    return parts_of(total, num_ranks())[rank()]


def own_device() -> torch.device:
    """This process's CUDA device, the first if it is alone; the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) if _is_set_up() else 0)


def summed(value: Tensor) -> Tensor:
    """The sum of a tensor over the processes."""
    return _reduced(value, dist.ReduceOp.SUM)


def agreed(number: int) -> int:
    """The largest of a number over the processes."""
    return int(_reduced(torch.tensor(number, device=_where()), dist.ReduceOp.MAX))


def of_first(value: Tensor) -> Tensor:
    """The first process's tensor, on the CPU."""
    if num_ranks() == 1:
        return value
    result = value.detach().to(_where(), copy=True).contiguous()
    with answering():
        dist.broadcast(
            result.view(-1).view(torch.uint8), 0
        )  # gloo knows few types, bytes among them
    return result.cpu()


def all_of(value: T) -> list[T]:
    """Every process's value, by their numbers; tensors on the CPU."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] = [None] * num_ranks()
    with answering():
        dist.all_gather_object(values, value)
    return values


def told(value: T) -> T:
    """What the first process says."""
    return all_of(value)[0]


def wait() -> None:
    """Wait until all processes are here."""
    agreed(0)


@contextmanager
def joined() -> Iterator[None]:
    """Set `torch.distributed` up for the block where torchrun, or a launcher that sets the same variables, started this.

    NCCL on CUDA devices, gloo elsewhere. A process that is alone, or has set it up by itself, stays as it is.
    """
    if _is_set_up() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with answering():
        dist.init_process_group("nccl" if on_cuda else "gloo")
    yield  # after an error the others are not waited for: the end of this process tells them
    dist.destroy_process_group()


@contextmanager
def answering() -> Iterator[None]:
    """Say in plain words where another process has ended in the middle of the block.

    Raises:
        ConnectionError: If one has.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error).lower()
        if num_ranks() == 1 or not any(word in said for word in LOST):
            raise
        raise ConnectionError(
            f"expected all {num_ranks()} processes to go on, got no answer from one, which has ended; what it said, "
            "if anything, says why; a training goes on from its last checkpoint with resume=True (--resume)"
        ) from error


def _reduced(value: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
    if num_ranks() == 1:
        return value
    result = value.detach().clone()
    with answering():
        dist.all_reduce(result, how)
    return result


def _where() -> torch.device:
    return own_device() if _is_set_up() and dist.get_backend() == "nccl" else torch.device("cpu")


def _is_set_up() -> bool:
    return dist.is_available() and dist.is_initialized()
