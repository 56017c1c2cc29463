r"""One step of the optimiser: its batch in pieces, over processes, in bfloat16, with a bounded gradient."""

__all__ = ["Descent"]

from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ppvae import ranks
from ppvae.objectives import Objective
from ppvae.ranks import PartNoise, noise_state, parts_of, set_noise_state
from ppvae.story import TensorDict, num_rows_of, one_tensor_of
from ppvae.training.average import Average
from ppvae.training.bfloat16 import networks_in_bfloat16
from ppvae.training.settings import OPTIMIZERS, Training

# Newer versions of torch give the option another name.
SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
)


class Descent:
    """Steps down the loss, with what they need beside the weights.

    A batch is cut into as many parts as there are processes times `accumulate`; their gradients add up to the
    batch's, with the draws that the whole batch would have had.

    Arguments:
        loss_of: The objective, on its device.
        settings: How to train.

    Attributes:
        optimiser: Over all parameters that are trained.
        average: Their average over the steps.

    Raises:
        ValueError: If nothing is to be trained.
    """

    def __init__(self, loss_of: Objective, settings: Training) -> None:
        self.loss_of, self.settings = loss_of, settings
        self.parameters = [p for p in loss_of.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("expected a parameter to train, got a story and a guide all frozen")
        self.optimiser = OPTIMIZERS[settings.optimizer](self.parameters, lr=settings.lr)
        self.average = Average(self.parameters, settings.average)
        self.device = one_tensor_of(loss_of).device
        self.num_parts = settings.accumulate * ranks.num_ranks()
        self.module: nn.Module = loss_of
        self.moving: list[Tensor] = []

    def spread(self, batch: TensorDict) -> None:
        """Bring the weights of all processes together, once the first rows show which of them a loss reaches.

        Arguments:
            batch: A few rows.
        """
        if ranks.num_ranks() == 1:
            return
        buffers = list(self.loss_of.buffers())
        kept, state = [b.clone() for b in buffers], noise_state(self.device)
        self.loss_of(batch).backward()
        unused = any(p.grad is None for p in self.parameters)
        for buffer, before in zip(buffers, kept, strict=True):
            if buffer.is_floating_point() and not torch.equal(buffer, before):
                self.moving.append(buffer)
            buffer.copy_(before)
        self.optimiser.zero_grad(set_to_none=True)
        set_noise_state(state, self.device)
        options: dict[str, Any] = {"find_unused_parameters": unused, SYNC_BUFFERS: False}
        with ranks.answering():
            self.module = DistributedDataParallel(self.loss_of, **options)

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
        if self.settings.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip_norm, norm)
        return loss, norm

    def move(self) -> None:
        """Follow the gradient."""
        self.optimiser.step()
        self.average.update()
        for buffer in self.moving:
            buffer.copy_(ranks.summed(buffer) / ranks.num_ranks())

    def _whole(self, batch: TensorDict, kl_weight: float) -> Tensor:
        loss = self.module(batch, kl_weight)
        loss.backward()
        return loss.detach()

    def _in_parts(self, batch: TensorDict, kl_weight: float) -> Tensor:
        parts = parts_of(num_rows_of(batch), self.num_parts)
        each = self.settings.accumulate
        own = parts[ranks.rank() * each : (ranks.rank() + 1) * each]
        state = noise_state(self.device)
        losses = []
        for part in own:
            set_noise_state(state, self.device)
            with PartNoise(part), self._summing(part is own[-1]):
                loss = self.module(part.of(batch), kl_weight) * part.share
                # DistributedDataParallel takes the mean over the processes.
                (loss * ranks.num_ranks()).backward()
            losses.append(loss.detach())
        return ranks.summed(torch.stack(losses).sum())

    def _summing(self, is_last: bool) -> AbstractContextManager[Any]:
        """The processes' gradients are added once a step, with the last piece."""
        if is_last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    def _in_precision(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bfloat16":
            return networks_in_bfloat16(self.loss_of.story, self.loss_of.guide)
        return nullcontext()
