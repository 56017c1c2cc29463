r"""Vectors added over the processes, step after step: through shared memory where all run on one machine's CPUs."""

__all__ = ["Adder"]

import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ppvae.ranks.processes import all_of, num_ranks, rank, summed, told, wait

MEMORY = Path("/dev/shm")  # a file there is memory that processes share
KEEPS_ORDER = ("x86_64", "AMD64")  # machines on which what was written first is seen first
LINE = 64  # bytes of a cache line: a process's counter has one for itself
PATIENT = 5000  # looks at the counters before a look costs a millisecond


class Adder:
    """Adds tensors of fixed sizes, step after step, and a few numbers with them.

    On the CPUs of one machine each process writes its tensors where all can read them, counts its steps there, and waits
    until all have come as far: 400,000 numbers then take a fifth of the time that a message with all of them takes.
    Elsewhere they are one message of `torch.distributed`.

    Arguments:
        size: How many numbers all tensors hold, the few among them.
        like: A tensor of their type and device.
    """

    def __init__(self, size: int, like: Tensor) -> None:
        self.shared = _Shared.of(size, like)

    def __call__(self, tensors: Sequence[Tensor], few: Tensor) -> tuple[list[Tensor], Tensor]:
        """The sums over the processes, in the shapes that came; the next call may write in their place.

        Arguments:
            tensors: Any shapes.
            few: `(m,)`, of the same type.

        Raises:
            RuntimeError: If another process has ended.
        """
        flat = [*(t.flatten() for t in tensors), few]
        total = summed(torch.cat(flat)) if self.shared is None else self.shared.summed(flat)
        *parts, few = total.split([len(part) for part in flat])
        return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)], few


class _Shared:
    """Memory that the processes of one machine share: two slots for each process's numbers, and its count of steps.

    Arguments:
        memory: The bytes.
        pids: The processes' numbers in the system, in the order of their ranks.
        like: A tensor of the numbers' type.
    """

    def __init__(self, memory: Tensor, pids: Sequence[int], like: Tensor) -> None:
        head = LINE * len(pids)
        self.counts = memory[:head].view(torch.int64).view(len(pids), -1)[:, 0].numpy()
        self.slots = memory[head:].view(like.dtype).view(2, len(pids), -1)
        self.total = torch.empty_like(self.slots[0, 0])
        self.pids, self.rank, self.step = pids, rank(), 0

    @classmethod
    def of(cls, size: int, like: Tensor) -> "_Shared | None":
        """Memory for so many numbers of a process; None where they cannot share any."""
        num_bytes = num_ranks() * (LINE + 2 * size * like.element_size())
        can = like.device.type == "cpu" and platform.machine() in KEEPS_ORDER
        nodes, able, pids = zip(
            *all_of((platform.node(), can and _has_room(2 * num_bytes), os.getpid())), strict=True
        )
        if not all(able) or len({*nodes}) > 1:
            return None
        if not all(all_of(not any(map(_has_ended, pids)))):  # such as containers that share a name
            return None
        return cls(_bytes(num_bytes), pids, like)

    def summed(self, flat: Sequence[Tensor]) -> Tensor:
        """The sum over the processes of the tensors in a row; the next call writes in its place."""
        # Two slots in turn: who writes the one has seen all the others past the reading of it.
        slots = self.slots[self.step % 2]
        self.step += 1
        torch.cat(list(flat), out=slots[self.rank])
        self.counts[self.rank] = self.step
        self._meet()
        torch.add(slots[0], slots[1], out=self.total)
        for slot in slots[2:]:
            self.total += slot
        return self.total

    def _meet(self) -> None:
        """Wait until all processes have come to this step."""
        looks = 0
        while self.counts.min() < self.step:
            looks += 1
            os.sched_yield()
            if looks > PATIENT:
                time.sleep(1e-3)
                ended = [pid for pid in self.pids if _has_ended(pid)] if looks % 100 == 0 else []
                if ended and self.counts.min() < self.step:
                    raise RuntimeError(f"a peer has ended: process {ended[0]}")


def _bytes(size: int) -> Tensor:
    """Zeros that all processes see."""
    name = ""
    if rank() == 0:
        handle, name = tempfile.mkstemp(prefix="ppvae-", dir=MEMORY)
        os.close(handle)
    name = told(name)
    try:
        memory = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
        wait()
    finally:
        if rank() == 0:
            os.unlink(name)  # the memory lives as long as somebody has it open
    return memory


def _has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to take note."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def _has_room(size: int) -> bool:
    if not MEMORY.is_dir():
        return False
    free = os.statvfs(MEMORY)
    return free.f_bavail * free.f_frsize > size
