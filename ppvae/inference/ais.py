r"""Annealed importance sampling on many rows at once, forwards and backwards."""

__all__ = ["Annealed", "AnnealedSampler", "Tick", "WeightedChains"]

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ppvae.config import Annealing
from ppvae.estimate import Estimate
from ppvae.inference.annealing_path import AnnealingPath
from ppvae.inference.hmc import transition
from ppvae.inference.pilot_run import Pilot, pilot_run
from ppvae.story import TensorDict

# Share of the chains below which too few are effective, and all are resampled.
RESAMPLE_BELOW = 0.5
Tick = Callable[[], None]


@dataclass(frozen=True)
class Annealed:
    """log p(x) of each row by annealing, and how well the chains did.

    Arguments:
        log_evidence: log p(x) or less in expectation, `(B,)`, in nats.
        acceptance: Mean acceptance probability of the transitions, `(B,)`; 1 where there was none.
        ess: Effective number of the row's independent chains, `(B,)`, from 1 to their number.
        num_temperatures: Temperatures after the start, the most of any piece of rows.
    """

    log_evidence: Estimate
    acceptance: Tensor
    ess: Tensor
    num_temperatures: int

    def __str__(self) -> str:
        return (
            f"log p(x) of {len(self.log_evidence)} rows by annealing: {self.log_evidence.mean()} "
            f"nats per row, {self.num_temperatures} temperatures, acceptance "
            f"{float(self.acceptance.mean()):.2f}, effective chains {float(self.ess.mean()):.1f} "
            f"in the mean, {float(self.ess.min()):.1f} at least"
        )


@dataclass(frozen=True)
class WeightedChains:
    """Weighted chains of each row at the end of a path.

    Arguments:
        log_weights: `(C, B)`, in nats.
        acceptance: Mean acceptance probability of each row, `(B,)`.
        ancestor: Number of the chain at the start from which each descends, `(C, B)`.
        num_resampled: Times that a row's chains were resampled, `(B,)`.
    """

    log_weights: Tensor
    acceptance: Tensor
    ancestor: Tensor
    num_resampled: Tensor

    @property
    def ess(self) -> Tensor:
        """Effective number of ancestors, `(B,)`."""
        return 1 / self._shares().square().sum(0)

    def log_mean(self) -> Estimate:
        """log of the mean weight, `(B,)`, in nats; without resampling the error is that of the
        delta method.

        With resampling it can come out below zero: then it is unknown, NaN.

        Source:
            A. Lee, N. Whiteley (2018). Variance estimation in the particle filter.
        """
        num = len(self.log_weights)
        value = self.log_weights.logsumexp(0) - torch.tensor(float(num)).log().to(self.log_weights)
        if num == 1:
            return Estimate(value, torch.full_like(value, torch.nan))
        growth = (num / (num - 1)) ** (1 + self.num_resampled)
        spread = 1 - growth * (1 - self._shares().square().sum(0))
        unknown = (spread < 0) & (self.num_resampled > 0)
        return Estimate(value, spread.clamp(min=0).sqrt().masked_fill(unknown, torch.nan))

    def _shares(self) -> Tensor:
        """Share of the weight that descends from each chain of the start, `(C, B)`."""
        weight = self.log_weights.softmax(0)
        return torch.zeros_like(weight).scatter_add(0, self.ancestor, weight)


class AnnealedSampler:
    r"""Annealed importance sampling along a path, with a schedule and step sizes that a pilot run
    has tuned and fixed.

    Because nothing is tuned by the chains that count, exp of a forward log weight is an unbiased
    estimate of p(x), and exp of a backward one of 1 / p(x).

    Arguments:
        path: The densities between start and posterior.
        settings: Chains, temperatures, transitions.
        tick: Called at each temperature of the pilot run and of each run.

    Source:
        R. M. Neal (2001). Annealed importance sampling.
        R. B. Grosse, Z. Ghahramani, R. P. Adams (2015). Sandwiching the marginal likelihood using
        bidirectional Monte Carlo.
    """

    def __init__(self, path: AnnealingPath, settings: Annealing, tick: Tick = lambda: None) -> None:
        self.path, self.settings, self.tick = path, settings, tick
        self.tuned: Pilot = pilot_run(path, settings, tick)

    def forward(self) -> WeightedChains:
        """Chains from the start to the posterior: log p(x) or less in mean."""
        start = self.path.draw(self.settings.num_chains)
        return self._run(start, self.tuned.betas, self.settings.resample)

    def backward(self, latents: TensorDict) -> WeightedChains:
        """Chains from the posterior to the start: −log p(x) or less in mean; never resampled.

        Arguments:
            latents: One exact posterior draw a row, as it comes with simulated rows, name -> `(B,
                *row)`.
        """
        with torch.no_grad():
            eps = self.path.target.flatten(latents)
        start = eps.expand(self.settings.num_chains, *eps.shape)
        return self._run(start, self.tuned.betas[::-1], resample=False)

    def _run(self, eps: Tensor, betas: list[float], resample: bool) -> WeightedChains:
        """Weigh and move chains along the schedule; a transition at its far end would change no
        weight.
        """
        log_w = eps.new_zeros(eps.shape[:2])
        accepted = eps.new_zeros(eps.shape[1])
        ancestor = torch.arange(len(eps), device=eps.device).unsqueeze(1).expand(log_w.shape)
        resampled = eps.new_zeros(eps.shape[1])
        ends = self.path.ends(eps)
        for before, beta in pairwise(betas):
            self.tick()
            log_w = log_w + (beta - before) * (ends[1] - ends[0])
            if beta == betas[-1]:
                break
            if resample:
                index, log_w, where = _resample(log_w)
                eps, ancestor, *rest = (_take(part, index) for part in (eps, ancestor, *ends))
                ends, resampled = tuple(rest), resampled + where
            state, acceptance, _ = transition(
                self.path.evaluate_at(beta), self.path.state(eps, ends, beta),
                self.tuned.step_sizes[beta], self.settings.num_leapfrog,
            )  # fmt: skip
            eps, ends = state.position, state.parts
            accepted += acceptance.mean(0)
        num_transitions = len(betas) - 2
        mean = accepted / num_transitions if num_transitions else torch.ones_like(accepted)
        return WeightedChains(log_w, mean, ancestor, resampled)


def _take(part: Tensor, index: Tensor) -> Tensor:
    """The chains with these numbers, of a tensor `(C, B, *)`."""
    index = index.reshape(*index.shape, *(1,) * (part.dim() - 2))
    return part.gather(0, index.expand(part.shape))


def _resample(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Systematic resampling of the rows that need it: which chain each goes on from `(C, B)`,
    weights `(C, B)`, where.
    """
    num = len(log_w)
    weight = log_w.softmax(0)
    where = weight.square().sum(0).reciprocal() < RESAMPLE_BELOW * num
    offset = torch.rand(log_w.shape[1]).to(log_w)
    points = (torch.arange(num).to(log_w) + offset.unsqueeze(1)) / num  # (B, C)
    drawn = torch.searchsorted(weight.T.contiguous().cumsum(1), points.contiguous())
    stay = torch.arange(num, device=log_w.device).unsqueeze(1).expand(log_w.shape)
    index = torch.where(where, drawn.clamp(max=num - 1).T, stay)
    mean = log_w.logsumexp(0) - torch.tensor(float(num)).log().to(log_w)
    return index, torch.where(where, mean, log_w), where.to(log_w)
