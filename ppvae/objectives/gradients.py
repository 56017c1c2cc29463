r"""Many independent gradients of one loss, as a mean and a variance of each parameter group."""

__all__ = ["Gradients", "measure_gradients", "parameter_groups", "train_baseline"]

import math
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ppvae.objectives import Objective
from ppvae.story import TensorDict, eval_mode

BASELINE_STEPS = 100
BASELINE_LR = 0.01
# Parts of the library's guides, in plain words; another guide is one group.
GUIDE_PARTS = {
    "features": "encoder",
    "to_parameters": "heads",
    "transport": "flow",
    "shared": "global",
}

Groups = dict[str, list[nn.Parameter]]


@dataclass(frozen=True)
class Gradients:
    """Mean and variance of each number of a gradient over independent draws.

    Arguments:
        mean: Group -> `(P,)`.
        variance: Group -> `(P,)`; 0 where the gradient is exact.
        num_repeats: Draws.
        milliseconds: Of one draw, the median; 0 where none was timed.
    """

    mean: TensorDict
    variance: TensorDict
    num_repeats: int
    milliseconds: float = 0.0

    @classmethod
    def exact(cls, loss: Tensor, groups: Groups) -> "Gradients":
        """The gradient of a loss without noise."""
        mean = gradient_of(loss, groups)
        return cls(mean, {k: torch.zeros_like(v) for k, v in mean.items()}, 1)

    def total_variance(self, group: str) -> float:
        """Sum of the variances of one draw's numbers."""
        return float(self.variance[group].sum())

    def noise(self, group: str) -> float:
        """Expected squared length of the mean's error."""
        return self.total_variance(group) / self.num_repeats

    def snr(self, group: str) -> float:
        """|mean| / sqrt(variance), the mean's own noise taken out of its length."""
        signal = max(0.0, float(self.mean[group].square().sum()) - self.noise(group))
        noise = self.total_variance(group)
        return math.sqrt(signal / noise) if noise else math.inf


def parameter_groups(story: nn.Module, guide: nn.Module) -> Groups:
    """Parameters that are trained: the story's, and those of each part of the guide.

    Raises:
        ValueError: If all are frozen.
    """
    groups: Groups = {}
    seen: set[int] = set()
    for who, module in (("story", story), ("guide", guide)):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                part = who if who == "story" else GUIDE_PARTS.get(name.partition(".")[0], who)
                groups.setdefault(part, []).append(parameter)
    if not groups:
        raise ValueError("expected a parameter with a gradient, got a story and a guide all frozen")
    return groups


def gradient_of(loss: Tensor, groups: Groups) -> TensorDict:
    """Group -> its gradient as one vector `(P,)`, zero where the loss does not depend on it."""
    flat = [p for parameters in groups.values() for p in parameters]
    parts = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    found = {}
    for group, parameters in groups.items():
        pieces = [(p, next(parts)) for p in parameters]
        found[group] = torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for p, g in pieces]
        )
    return found


def measure_gradients(
    objective: Objective, batch: TensorDict, groups: Groups, num_repeats: int
) -> Gradients:
    """Draw independent gradients of an objective's loss on one batch.

    Arguments:
        objective: The objective; what it remembers stands still.
        batch: Rows, name -> `(B, *event)`.
        groups: From `parameter_groups`.
        num_repeats: Draws, at least 2.
    """
    mean: TensorDict = {}
    squares: TensorDict = {}
    seconds = []
    with eval_mode(objective):
        for count in range(1, num_repeats + 1):
            start = time.perf_counter()
            gradient = gradient_of(objective(batch), groups)
            seconds.append(time.perf_counter() - start)
            for group, value in gradient.items():
                before = mean.get(group, torch.zeros_like(value))
                mean[group] = before + (value - before) / count
                change = (value - before) * (value - mean[group])
                squares[group] = squares.get(group, 0.0) + change
    variance = {group: total / (num_repeats - 1) for group, total in squares.items()}
    return Gradients(mean, variance, num_repeats, 1000 * statistics.median(seconds))


def train_baseline(objective: Objective, batch: TensorDict) -> None:
    """Let what an objective learns beside story and guide settle on these rows."""
    if not objective.own_state():
        return
    own = list(objective.own_parameters())
    optimiser = torch.optim.Adam(own, lr=BASELINE_LR) if own else None
    for _ in range(BASELINE_STEPS):
        loss = objective(batch)
        if optimiser is not None:
            for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
                parameter.grad = gradient
            optimiser.step()
