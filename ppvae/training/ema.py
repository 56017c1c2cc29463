r"""An exponential moving average of the weights, which is what is validated and kept."""

__all__ = ["ExponentialMovingAverage"]

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage:
    r"""The average :math:`a_t = d_t a_{t-1} + (1 - d_t) w_t` of parameters over the steps.

    The decay :math:`d_t = \min(d, (1 + t) / (10 + t))` forgets the first steps faster, whose weights are far from where
    training ends.

    Arguments:
        parameters: What is averaged.
        decay: d, from 0 (no average: the weights themselves) to below 1; about 1 / (1 - d) steps are remembered.

    Source:
        B. T. Polyak, A. B. Juditsky (1992). Acceleration of stochastic approximation by averaging.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.num_steps = 0
        self.values = [p.detach().clone() for p in parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        if self.decay:
            self.num_steps += 1
            decay = min(self.decay, (1 + self.num_steps) / (10 + self.num_steps))
            get_ema_multi_avg_fn(decay)(self.values, list(self.parameters), self.num_steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in the place of the weights for the block."""
        kept = [p.detach().clone() for p in self.parameters] if self.decay else []
        self.put()
        try:
            yield
        finally:
            self._copy(kept)

    def put(self) -> None:
        """Put the average in the place of the weights, for good."""
        self._copy(self.values)

    def state(self) -> dict[str, int | list[Tensor]]:
        """What a checkpoint keeps."""
        return {"steps": self.num_steps, "values": self.values}

    def restore(self, steps: int, values: Sequence[Tensor]) -> None:
        """Go on from what a checkpoint kept."""
        self.num_steps = steps
        for own, value in zip(self.values, values, strict=True):
            own.copy_(value)

    @torch.no_grad()
    def _copy(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=False):
            parameter.copy_(value)
