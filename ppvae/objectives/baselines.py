r"""Baselines of the score function: what the signal is compared with before it weighs the score."""

__all__ = ["BASELINES", "Baseline", "DecayingAverage", "NeuralBaseline", "NoBaseline"]

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ppvae.guides.features import Features
from ppvae.story import TensorDict

DECAY = 0.9
HIDDEN = (100,)


class Baseline(nn.Module, ABC):
    """A guess of each row's signal that does not depend on the draws: no bias comes in."""

    def __init__(self, batch: TensorDict, masked: list[str]) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, batch: TensorDict) -> Tensor:
        """The guess, `(B,)` or `()`, in nats."""

    def learn(self, guess: Tensor, signal: Tensor) -> Tensor:
        """Take in the signal that came, `(S, B)`, in nats.

        Returns:
            `()`: what to add to the loss so that the guess gets better; its value does not count.
        """
        return torch.zeros_like(signal.sum())


class NoBaseline(Baseline):
    """Nothing: the plain score function."""

    def forward(self, batch: TensorDict) -> Tensor:
        return next(iter(batch.values())).new_zeros(())


class DecayingAverage(Baseline):
    """The mean signal of the steps before, each step counting 0.9 times the next."""

    total: Tensor
    weight: Tensor

    def __init__(self, batch: TensorDict, masked: list[str]) -> None:
        super().__init__(batch, masked)
        like = next(iter(batch.values()))
        self.register_buffer("total", like.new_zeros(()))
        self.register_buffer("weight", like.new_zeros(()))

    def forward(self, batch: TensorDict) -> Tensor:
        return self.total / self.weight.clamp(min=1e-12)

    def learn(self, guess: Tensor, signal: Tensor) -> Tensor:
        if self.training:
            self.total.mul_(DECAY).add_(signal.mean())
            self.weight.mul_(DECAY).add_(1.0)
        return super().learn(guess, signal)


class NeuralBaseline(Baseline):
    """A network of the row plus the decaying average, trained by least squares (NVIL)."""

    def __init__(self, batch: TensorDict, masked: list[str]) -> None:
        super().__init__(batch, masked)
        self.average = DecayingAverage(batch, masked)
        self.features = Features(batch, None, HIDDEN, masked)
        self.head = nn.Linear(self.features.num_features, 1).to(next(iter(batch.values())))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: TensorDict) -> Tensor:
        return self.average(batch) + self.head(self.features(batch)).squeeze(-1)

    def learn(self, guess: Tensor, signal: Tensor) -> Tensor:
        self.average.learn(guess, signal)
        return (guess - signal).square().mean()


BASELINES: dict[str, type[Baseline]] = {
    "none": NoBaseline,
    "average": DecayingAverage,
    "neural": NeuralBaseline,
}
