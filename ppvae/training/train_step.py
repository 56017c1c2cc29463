r"""One step of the optimizer: parts of a batch, processes, precision, a bounded gradient."""

__all__ = ["TrainStep", "split_rows"]

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from ppvae.config import TrainConfig
from ppvae.objectives import Objective
from ppvae.story import TensorDict, num_rows_of
from ppvae.training.bfloat16 import networks_in_bfloat16
from ppvae.training.captured_step import CapturedStep
from ppvae.training.distributed import (
    all_reduce,
    broadcast_weights,
    explain_lost_process,
    rank,
    world_size,
)

# Factor on the learning rate as training goes from 0 to 1.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant_then_linear": lambda done: min(1.0, 4 * (1 - done)),
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
}

# One for all parameters, fused where torch can, with torch's own settings beside the learning rate.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),
    "sgd": partial(torch.optim.SGD, fused=True),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": partial(torch.optim.Adagrad, fused=True),
}

NORM_DECAY = 0.9  # share of the running mean of gradient norms that a step keeps


class TrainStep:
    """Steps down the loss, with what they need beside the weights.

    A batch is cut into `accumulate` parts for each process; their gradients, weighed by their rows,
    add up to the batch's.

    Arguments:
        loss_of: The objective, on its device.
        config: How to train.
        steps_per_epoch: Number of batches of an epoch.
        compile_mode: `off`, or how loss and gradients are captured.

    Attributes:
        parameters: All that are trained.
        optimizer: Over all of them.
        num_clipped: Steps whose gradient was longer than its bound, since somebody set this to 0.
        mean_norm: Running mean of the gradient's norm; 0 before the first step.

    Raises:
        ValueError: If nothing is to be trained.
    """

    def __init__(
        self,
        loss_of: Objective,
        config: TrainConfig,
        steps_per_epoch: int = 1,
        compile_mode: str = "off",
    ) -> None:
        self.loss_of, self.config = loss_of, config
        self.parameters = [p for p in loss_of.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("expected a parameter to train, got a story and a guide all frozen")
        self.optimizer = OPTIMIZERS[config.optimizer](self.parameters, lr=config.lr)
        schedule = SCHEDULES[config.schedule]

        def lr_factor(step: int) -> float:
            epoch, batch = divmod(step, steps_per_epoch)
            return schedule((epoch + batch / steps_per_epoch) / config.epochs)

        self.scheduler = LambdaLR(self.optimizer, lr_factor)
        self.mean_norm, self.num_clipped = 0.0, 0
        self.captured: CapturedStep | None = None
        if compile_mode != "off":
            has_warmup = config.kl_warmup > 0
            self.captured = CapturedStep(loss_of, self.parameters, compile_mode, has_warmup)
        self.module: nn.Module = loss_of
        if world_size() > 1:
            broadcast_weights(loss_of)  # gloo cannot send all types of buffers that DDP would
            with explain_lost_process():  # some objectives leave parameters out of a step
                self.module = DistributedDataParallel(
                    loss_of, init_sync=False, broadcast_buffers=False, find_unused_parameters=True
                )

    def gradient(self, batch: TensorDict, kl_weight: float) -> tuple[float, float]:
        """Loss of a batch over all processes, nats per row; gradient norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = all_reduce(self._backward(batch, kl_weight))
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._clip(norm)
        return float(loss), float(norm)

    def update(self) -> None:
        """Follow the gradient."""
        self.optimizer.step()

    def set_step(self, step: int) -> None:
        """Give the optimizer the learning rate of a step, counted over the epochs from 0."""
        self.scheduler.last_epoch = step - 1
        self.scheduler.step()

    def _backward(self, batch: TensorDict, kl_weight: float) -> Tensor:
        """Gradients of the batch, over all processes; this process's share of the loss, `()`."""
        if self.captured is not None:
            return self.captured(batch, kl_weight)
        num_parts = self.config.accumulate
        parts = split_rows(batch, num_parts * world_size())
        own = parts[rank() * num_parts : (rank() + 1) * num_parts]
        losses = []
        for number, (rows, share) in enumerate(own, 1):
            with ExitStack() as stack:
                stack.enter_context(explain_lost_process())
                if self.config.precision == "bfloat16":
                    assert self.loss_of.guide is not None
                    programs = (self.loss_of.story, self.loss_of.guide)
                    stack.enter_context(networks_in_bfloat16(*programs))
                if isinstance(self.module, DistributedDataParallel) and number < num_parts:
                    stack.enter_context(self.module.no_sync())  # the last part adds all gradients
                loss = self.module(rows, kl_weight)
                (loss * (share * world_size())).backward()  # DDP takes the mean over processes
            losses.append(loss.detach() * share)
        return losses[0] if num_parts == 1 else torch.stack(losses).sum()

    def _clip(self, norm: Tensor) -> None:
        """Shorten the gradient to `clip_norm`, and to `clip_factor` times its running mean: one
        that is far longer than usual would throw Adam off its way for many steps."""
        length = float(norm)
        if not math.isfinite(length):
            return
        bounds = [self.config.clip_norm or math.inf]
        if self.config.clip_factor is not None and self.mean_norm:
            bounds.append(self.config.clip_factor * self.mean_norm)
        if length > min(bounds):
            nn.utils.clip_grads_with_norm_(self.parameters, min(bounds), norm)
            length, self.num_clipped = min(bounds), self.num_clipped + 1
        mean = NORM_DECAY * self.mean_norm + (1 - NORM_DECAY) * length
        self.mean_norm = mean if self.mean_norm else length


def split_rows(batch: TensorDict, count: int) -> list[tuple[TensorDict, float]]:
    """A batch in parts that differ by one row at most, each with its share of the rows, 0 to 1.

    Where there are fewer rows than parts, some have none. They get the first row, as no program
    runs on no rows, and the share 0.
    """
    total = num_rows_of(batch)
    edges = [total * number // count for number in range(count + 1)]
    parts = []
    for first, stop in pairwise(edges):
        where = slice(first, stop) if stop > first else slice(0, 1)
        parts.append(({k: v[where] for k, v in batch.items()}, (stop - first) / total))
    return parts
