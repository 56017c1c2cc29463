r"""Training in several processes that torchrun started, with `torch.distributed`.

In a process by itself each function does what it says for one process. Rank 0, the main process,
alone validates, writes and prints; what the others need of that is broadcast.
"""

__all__ = [
    "all_gather_object",
    "all_reduce",
    "all_reduce_max",
    "broadcast_object",
    "broadcast_weights",
    "explain_lost_process",
    "init_process_group",
    "is_main_process",
    "on_main_process",
    "process_group",
    "rank",
    "world_size",
]

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

# The main process may measure for hours; a process that dies is noticed without a timeout.
TIMEOUT = timedelta(days=2)
# Words in torch's errors where another process is gone, by the backend that raises them.
LOST = ("gloo", "nccl", "connection", "process group", "peer")


def init_process_group() -> None:
    """Set `torch.distributed` up if torchrun, or a launcher like it, started this process.

    NCCL where there are CUDA devices, one for each process; gloo elsewhere. A process by itself, or
    one that has set it up already, stays as it is.
    """
    if _is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with explain_lost_process():
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=TIMEOUT)


@contextmanager
def process_group() -> Iterator[None]:
    """`init_process_group` for the length of the block."""
    was_initialized = _is_initialized()
    init_process_group()
    yield  # after an error the others are not waited for: the end of this process tells them
    if _is_initialized() and not was_initialized:
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if _is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that validates, writes and prints."""
    return rank() == 0


def all_reduce(value: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
    """The sum of a tensor over the processes."""
    if world_size() == 1:
        return value
    result = value.detach().clone()
    with explain_lost_process():
        dist.all_reduce(result, op)
    return result


def all_reduce_max(number: int) -> int:
    """The largest of a number over the processes."""
    if world_size() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return int(all_reduce(torch.tensor(number, device=device), dist.ReduceOp.MAX))


def all_gather_object(value: T) -> list[T]:
    """The value of each process, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with explain_lost_process():
        dist.all_gather_object(values, value)
    return values


def broadcast_object(value: T) -> T:
    """The value of the main process."""
    if world_size() == 1:
        return value
    values = [value]
    with explain_lost_process():
        dist.broadcast_object_list(values)
    return values[0]


def broadcast_weights(module: nn.Module) -> None:
    """Give a module the parameters and buffers that it has in the main process."""
    if world_size() > 1:
        weights = {name: value.cpu() for name, value in module.state_dict().items()}
        module.load_state_dict(broadcast_object(weights))


def on_main_process(work: Callable[[], T]) -> T:
    """The result of work that the main process does while the others wait.

    Raises:
        ValueError: In all processes, where it is raised in the main one.
    """
    if world_size() == 1:
        return work()
    result: Any = None
    if is_main_process():
        try:
            result = work()
        except ValueError as error:
            result = error
    result = broadcast_object(result)
    if isinstance(result, ValueError):
        raise result
    return result


@contextmanager
def explain_lost_process() -> Iterator[None]:
    """Say in plain words where another process has ended in the middle of the block.

    Raises:
        ConnectionError: If one has.
    """
    try:
        yield
    except RuntimeError as error:
        size, said = os.environ.get("WORLD_SIZE", "1"), str(error).lower()
        if size == "1" or not any(word in said for word in LOST):
            raise
        raise ConnectionError(
            f"expected all {size} processes to go on, got no answer from one, which has ended; its "
            "own message, if any, says why; a training goes on from its last checkpoint with "
            "resume=True (--resume)"
        ) from error


def _is_initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
