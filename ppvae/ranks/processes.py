r"""One process among several that torchrun started: which rows are its own, and what all of them have together.

Everything here is what it would be in a process alone where `torch.distributed` has not been set up.
"""

__all__ = [
    "agreed",
    "answering",
    "gathered",
    "is_first",
    "joined",
    "num_ranks",
    "of_first",
    "own_device",
    "own_part",
    "rank",
    "summed",
    "wait",
]

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from ppvae.ranks.part import Part, parts_of

# What torch says where another process is gone, by the backend that says it.
LOST = ("gloo", "nccl", "connection", "process group", "peer")


def num_ranks() -> int:
    """Number of processes."""
    return dist.get_world_size() if _is_set_up() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _is_set_up() else 0


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


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


def gathered(value: Tensor, part: Part, dim: int = 0) -> Tensor:
    """All rows of a tensor of which each process has its part.

    Arguments:
        value: This process's rows; what stands there for the rows of an empty part is left out.
        part: Which they are.
        dim: The dimension of the rows.
    """
    if num_ranks() == 1:
        return value
    shape = [*value.shape]
    shape[dim] = part.total
    whole = value.new_zeros(shape)
    size = part.stop - part.first
    whole.narrow(dim, part.first, size).copy_(value.narrow(dim, 0, size))
    return summed(whole)


def of_first(value: Tensor) -> Tensor:
    """The first process's tensor, on the CPU."""
    if num_ranks() == 1:
        return value
    result = value.to(_where(), copy=True)
    with answering():
        dist.broadcast(result, 0)
    return result.cpu()


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
            f"expected all {num_ranks()} processes to go on, got no answer from one, which has ended (its own message "
            f"says why); training goes on from its last checkpoint with resume=True (--resume)"
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
