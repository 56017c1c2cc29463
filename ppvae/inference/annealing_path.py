r"""The annealed densities between a start and the posterior, over noise in which a guide is a
standard normal.
"""

__all__ = ["AnnealingPath", "FromGuide", "FromPrior", "Target", "annealing_path"]

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ppvae.inference.hmc import Evaluate, State
from ppvae.inference.whitening import LOG_SQRT_2_PI, Coordinates, affine, coordinates_of
from ppvae.problem import Problem
from ppvae.story import LogJoint, TensorDict, simulate

PRIOR_DRAWS = 1000
# Log density of the start and of the target, `(C, B)` each, in nats, and their gradients, `(C, B,
# d)` each.
Ends = tuple[Tensor, ...]


class Target:
    """log p(x, z(eps)) with both Jacobians; finite discrete sites are summed over.

    Arguments:
        problem: Story and rows.
        coordinates: The map from noise eps to the real vector u of the continuous sites.
    """

    def __init__(self, problem: Problem, coordinates: Coordinates) -> None:
        self.problem, self.coordinates = problem, coordinates

    def log_density(self, eps: Tensor) -> Tensor:
        """`(C, B, d)` to `(C, B)`, in nats."""
        u, log_det = self.coordinates.push(eps)
        return self.problem.unconstrained.log_joint(u) + log_det

    def value_and_grad(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """`log_density`, `(C, B)`, and its gradient, `(C, B, d)`, detached; what is not finite
        there is 0.
        """
        with torch.enable_grad():
            eps = eps.detach().requires_grad_(True)
            value = self.log_density(eps)
            (gradient,) = torch.autograd.grad(value.sum(), eps)
        return value.detach(), torch.nan_to_num(gradient, 0.0, 0.0, 0.0)

    def unflatten(self, eps: Tensor) -> tuple[TensorDict, Tensor]:
        """The sites at this noise, and log |det dz/deps|, `(C, B)`, in nats."""
        u, log_det = self.coordinates.push(eps)
        latents, log_det_sites = self.problem.unconstrained.unflatten(u)
        return latents, log_det + log_det_sites

    def flatten(self, latents: TensorDict) -> Tensor:
        """The noise `(*, B, d)` of given sites."""
        return self.coordinates.pull(self.problem.unconstrained.flatten(latents))


class AnnealingPath(ABC):
    r"""The densities :math:`\pi_\beta \propto \pi_0^{1-\beta} p(x, \cdot)^\beta`, with a normalised
    start.
    """

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def log_densities(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Of the start and of the target, `(C, B)` each, in nats."""

    @abstractmethod
    def draw(self, num_chains: int) -> Tensor:
        """Exact draws of the start, `(C, B, d)`."""

    def ends(self, eps: Tensor) -> Ends:
        """Both log densities and their gradients, from which those at every temperature follow."""
        with torch.enable_grad():
            eps = eps.detach().requires_grad_(True)
            start, target = self.log_densities(eps)
            (start_gradient,) = torch.autograd.grad(start.sum(), eps, retain_graph=True)
            (target_gradient,) = torch.autograd.grad(target.sum(), eps)
        finite = [torch.nan_to_num(g, 0.0, 0.0, 0.0) for g in (start_gradient, target_gradient)]
        return start.detach(), target.detach(), finite[0], finite[1]

    def state(self, eps: Tensor, ends: Ends, beta: float) -> State:
        """The state at inverse temperature `beta`, which carries both ends along."""
        start, target, start_gradient, target_gradient = ends
        log_density = (1 - beta) * start + beta * target
        gradient = (1 - beta) * start_gradient + beta * target_gradient
        return State(eps, log_density, gradient, ends)

    def evaluate_at(self, beta: float) -> Evaluate:
        """The state at inverse temperature `beta` from positions."""
        return lambda eps: self.state(eps, self.ends(eps), beta)


class FromGuide(AnnealingPath):
    """The start is the standard normal in the target's coordinates: the guide, or the Gaussian in
    its place.
    """

    def log_densities(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        start = -0.5 * eps.square().sum(-1) - LOG_SQRT_2_PI * eps.shape[-1]
        return start, self.target.log_density(eps)

    def draw(self, num_chains: int) -> Tensor:
        coordinates = self.target.coordinates
        like = next(iter(self.target.problem.batch.values()))
        return torch.randn(num_chains, coordinates.num_rows, coordinates.dim).to(like)


class FromPrior(AnnealingPath):
    """The start is the story's prior of the continuous sites, with finite discrete sites summed
    over.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        problem = target.problem
        self.joint = LogJoint(problem.story, problem.batch, problem.sites)

    def log_densities(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        latents, log_det = self.target.unflatten(eps)
        sites = self.joint.sites
        finite = self.joint.left_out(latents)
        if finite is None:  # one run of the story scores both ends
            by_site = self.joint.by_site(latents)
            prior = sum(by_site[name] for name in sites.latent)
            joint = sum(v for name, v in by_site.items() if sites[name].is_local)
            return prior + log_det, joint + log_det
        every = finite.with_all_values(latents, eps.shape[1], eps.device)
        by_site = self.joint.by_site(every)
        each = sum((by_site[name] for name in every), log_det.new_zeros(()))
        prior = each.reshape(len(eps), finite.count, -1).logsumexp(1)
        return prior + log_det, self.joint(latents) + log_det

    def draw(self, num_chains: int) -> Tensor:
        return self.target.coordinates.pull(_prior_draws(self.target.problem, num_chains))


def annealing_path(start: str, problem: Problem) -> AnnealingPath:
    """The path that a start names, on these rows.

    Arguments:
        start: `guide` or `prior`.
        problem: Story, rows, and a guide unless the start is the prior.

    Raises:
        ValueError: If there is no guide to start from, or the prior cannot be drawn from.
    """
    if start == "guide":
        if problem.guide is None:
            raise ValueError(
                "expected a guide to start annealing from, got none; pass guide=..., or "
                "Annealing(start='prior')"
            )
        return FromGuide(Target(problem, coordinates_of(problem)))
    if not problem.program.generates_rows:
        raise ValueError(
            "expected a story that generates rows for annealing from the prior, got an adopted "
            "model, which observes its data by itself; start from its guide"
        )
    # Noise is scaled by the prior's spread, the same for every row: the prior of each row is not
    # needed for that.
    u = _prior_draws(problem, -(-PRIOR_DRAWS // problem.num_rows)).flatten(0, 1)
    loc, scale = u.mean(0), u.std(0).clamp(min=1e-6)
    rows = problem.num_rows
    scaled = affine(loc.expand(rows, -1), torch.diag_embed(scale).expand(rows, -1, -1))
    return FromPrior(Target(problem, scaled))


def _prior_draws(problem: Problem, num_draws: int) -> Tensor:
    """u of rows that the story generates under these rows' covariates, `(S, B, d)`."""
    flat, covariates = problem.unconstrained.flat, problem.covariates
    repeated = {k: v.repeat(num_draws, *(1,) * (v.dim() - 1)) for k, v in covariates.items()}
    drawn = simulate(problem.story, num_draws * problem.num_rows, seed=None, **repeated)
    sites = {name: drawn[name] for name in flat.sites}
    return flat.flatten(sites).unflatten(0, (num_draws, problem.num_rows))
