r"""An exponential moving average of the weights, which is what is validated and kept."""

__all__ = ["ExponentialMovingAverage"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ppvae.training.callbacks import Callback
from ppvae.training.history import History, Record
from ppvae.training.trainer import Trainer


class ExponentialMovingAverage(Callback):
    r"""The average :math:`a_t = d_t a_{t-1} + (1 - d_t) w_t` of trained parameters over steps.

    The decay :math:`d_t = \min(d, (1 + t) / (10 + t))` forgets the first steps faster, whose
    weights are far from where training ends.

    Arguments:
        decay: d, above 0 and below 1; about 1 / (1 - d) steps are remembered.

    Source:
        B. T. Polyak, A. B. Juditsky (1992). Acceleration of stochastic approximation by averaging.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.num_steps = decay, 0

    def on_train_start(self, trainer: Trainer) -> None:
        self.parameters = trainer.parameters
        self.averages = [p.detach().clone() for p in self.parameters]
        trainer.optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.num_steps += 1
        decay = min(self.decay, (1 + self.num_steps) / (10 + self.num_steps))
        get_ema_multi_avg_fn(decay)(self.averages, list(self.parameters), self.num_steps)

    def on_validation_start(self) -> None:
        self.weights = [p.detach().clone() for p in self.parameters]
        self._copy(self.averages, self.parameters)

    def on_epoch_end(self, record: Record) -> None:
        self._copy(self.weights, self.parameters)

    def on_train_end(self, history: History) -> None:
        self._copy(self.averages, self.parameters)

    def state_dict(self) -> dict[str, Any]:
        return {"num_steps": self.num_steps, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_steps = state["num_steps"]
        self._copy(state["averages"], self.averages)

    @torch.no_grad()
    def _copy(self, values: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        for value, target in zip(values, targets, strict=True):
            target.copy_(value)
