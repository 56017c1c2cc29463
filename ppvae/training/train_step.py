r"""One step of the optimiser: its batch in pieces, over processes, in bfloat16, with a bounded gradient."""

__all__ = ["TrainStep"]

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ppvae import ranks
from ppvae.objectives import Objective
from ppvae.ranks import Adder, PartNoise, noise_state, parts_of, set_noise_state
from ppvae.story import TensorDict, num_rows_of, reference_tensor
from ppvae.training.bfloat16 import networks_in_bfloat16
from ppvae.training.config import OPTIMIZERS, TrainConfig
from ppvae.training.ema import ExponentialMovingAverage

# Times its running mean that a gradient may be long, where no bound is given, and how much of that mean a step keeps.
SPIKE, KEPT = 10.0, 0.9


class TrainStep:
    """Steps down the loss, with what they need beside the weights.

    A batch is cut into as many parts as there are processes times `accumulate`; their gradients add up to the
    batch's, with the draws that the whole batch would have had.

    Arguments:
        loss_of: The objective, on its device.
        settings: How to train.

    Attributes:
        optimiser: Over all parameters that are trained.
        average: Their average over the steps.
        shortened: Steps whose gradient was longer than its bound, since somebody set this to 0.
        usual_norm: Running mean of the gradient's norm; 0 before the first step.
        signalled: Number of a signal that has come to this process, 0 for none.
        somebody_signalled: Whether one had come to any of several processes when they last met.

    Raises:
        ValueError: If nothing is to be trained.
    """

    def __init__(self, loss_of: Objective, settings: TrainConfig) -> None:
        self.loss_of, self.settings = loss_of, settings
        self.parameters = [p for p in loss_of.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("expected a parameter to train, got a story and a guide all frozen")
        self.optimiser = OPTIMIZERS[settings.optimizer](self.parameters, lr=settings.lr)
        self.device = reference_tensor(loss_of).device
        self.num_parts = settings.accumulate * ranks.num_ranks()
        self.moving: list[Tensor] | None = None if ranks.num_ranks() > 1 else []
        self.adder = None
        if ranks.num_ranks() > 1:
            for tensor in (*loss_of.parameters(), *loss_of.buffers()):
                tensor.detach().copy_(ranks.of_first(tensor.detach()))
            self.adder = Adder(sum(p.numel() for p in self.parameters) + 2, self.parameters[0])
        self.average = ExponentialMovingAverage(
            self.parameters, settings.average
        )  # of what all begin with
        self.usual_norm, self.num_clipped = 0.0, 0
        self.signalled: Callable[[], int] = lambda: 0
        self.somebody_signalled = False

    def gradient(self, batch: TensorDict, kl_weight: float) -> tuple[Tensor, Tensor]:
        """Loss of a batch, `()`, nats per row, and the norm of its gradient, which the parameters then hold, clipped."""
        self.optimiser.zero_grad(set_to_none=True)
        with ranks.answering(), self._in_precision():
            loss = (
                self._whole(batch, kl_weight)
                if self.num_parts == 1
                else self._in_parts(batch, kl_weight)
            )
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._bound(norm)
        return loss, norm

    def move(self) -> None:
        """Follow the gradient."""
        self.optimiser.step()
        self.average.update()
        for buffer in self.moving or ():
            buffer.copy_(ranks.summed(buffer) / ranks.num_ranks())

    def _bound(self, norm: Tensor) -> None:
        """Shorten the gradient to `clip_norm`; without one, a gradient that is ten times as long as is usual, which would
        throw Adam off its way for many steps."""
        most = self.settings.clip_norm
        if most is None and self.usual_norm:
            most = SPIKE * self.usual_norm
        length = float(norm)
        if not math.isfinite(length):
            return
        if most is not None and length > most:
            nn.utils.clip_grads_with_norm_(self.parameters, most, norm)
            length, self.num_clipped = most, self.num_clipped + 1
        mean = KEPT * self.usual_norm + (1 - KEPT) * length
        self.usual_norm = mean if self.usual_norm else length

    def _whole(self, batch: TensorDict, kl_weight: float) -> Tensor:
        loss = self.loss_of(batch, kl_weight)
        loss.backward()
        return loss.detach()

    def _in_parts(self, batch: TensorDict, kl_weight: float) -> Tensor:
        parts = parts_of(num_rows_of(batch), self.num_parts)
        each = self.settings.accumulate
        state, total = noise_state(self.device), []
        before = [b.clone() for b in self.loss_of.buffers()] if self.moving is None else []
        for part in parts[ranks.rank() * each : (ranks.rank() + 1) * each]:
            set_noise_state(state, self.device)
            with PartNoise(part):
                loss = self.loss_of(part.of(batch), kl_weight) * part.share
            loss.backward()
            total.append(loss.detach())
        if self.moving is None:
            self.moving = self._moved(before)
        return self._added(torch.stack(total).sum())

    def _added(self, loss: Tensor) -> Tensor:
        """Add the processes' gradients, and their shares of the loss; see whether a signal has come to any."""
        if self.adder is None:
            return loss
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        few = torch.stack(
            [loss, torch.as_tensor(float(self.signalled()), device=self.device, dtype=loss.dtype)]
        )
        totals, few = self.adder(gradients, few)
        for parameter, total in zip(self.parameters, totals, strict=True):
            parameter.grad = total
        self.somebody_signalled = bool(few[1])
        return few[0].clone()

    def _moved(self, before: list[Tensor]) -> list[Tensor]:
        """Buffers that a step has changed in any process, such as a baseline's running mean."""
        buffers = list(self.loss_of.buffers())
        own = [not torch.equal(b, was) for b, was in zip(buffers, before, strict=True)]
        anywhere = map(any, zip(*ranks.all_of(own), strict=True))
        moved = [b for b, has in zip(buffers, anywhere, strict=True) if has]
        return [b for b in moved if b.is_floating_point()]

    def _in_precision(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bfloat16":
            return networks_in_bfloat16(self.loss_of.story, self.loss_of.guide)
        return nullcontext()
