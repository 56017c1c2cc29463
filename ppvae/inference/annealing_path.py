r"""The annealed densities between a start and the posterior, over noise in which a guide is a standard normal."""

__all__ = ["FromGuide", "FromPrior", "Path", "Target", "path_of", "tempered"]

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ppvae.inference.hmc import State
from ppvae.inference.whitening import LOG_SQRT_2_PI, Coordinates, affine, coordinates_of
from ppvae.story import Flat, LogJoint, Sites, TensorDict, num_rows_of, simulate, split_batch

PRIOR_DRAWS = 1000


class Target:
    """log p(x, z(eps)) with both Jacobians, `(C, B, d)` to `(C, B)`, in nats; finite discrete sites are summed over.

    Arguments:
        log_joint: The story on these rows.
        flat: The continuous sites as one vector u.
        where: The map from noise to u.
    """

    def __init__(self, log_joint: LogJoint, flat: Flat, where: Coordinates) -> None:
        self.log_joint, self.flat, self.where = log_joint, flat, where

    def __call__(self, eps: Tensor) -> Tensor:
        latents, log_det = self.unflatten(eps)
        return self.log_joint(latents) + log_det

    def unflatten(self, eps: Tensor) -> tuple[TensorDict, Tensor]:
        """The sites at this noise, and log |det dz/deps|, `(C, B)`, in nats."""
        u, log_det = self.where.push(eps)
        latents, log_det_sites = self.flat.unflatten(u)
        return latents, log_det + log_det_sites

    def flatten(self, latents: TensorDict) -> Tensor:
        """The noise `(*, B, d)` of given sites."""
        return self.where.pull(self.flat.flatten(latents))


class Path(ABC):
    r"""The densities :math:`\pi_\beta \propto \pi_0^{1-\beta} p(x, \cdot)^\beta`, with a normalised start."""

    def __init__(self, target: Target) -> None:
        self.target = target

    @abstractmethod
    def ends(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities of the start and of the target, `(C, B)` each, in nats."""

    @abstractmethod
    def draw(self, num_chains: int) -> Tensor:
        """Exact draws of the start, `(C, B, d)`."""

    def known(self, eps: Tensor) -> State:
        """What transitions at any temperature need to know of a place.

        Returns:
            Log densities of both ends, `(C, B)` each, in nats, and their gradients, `(C, B, d)` each.
        """
        with torch.enable_grad():
            eps = eps.detach().requires_grad_(True)
            start, target = self.ends(eps)
            (of_start,) = torch.autograd.grad(start.sum(), eps, retain_graph=True)
            (of_target,) = torch.autograd.grad(target.sum(), eps)
        finite = (torch.nan_to_num(g, 0.0, 0.0, 0.0) for g in (of_start, of_target))
        return start.detach(), target.detach(), *finite

    def at(self, beta: float) -> Callable[[Tensor], State]:
        """What is known of a place at inverse temperature `beta`: the state of a transition."""
        return lambda eps: tempered(eps, self.known(eps), beta)


def tempered(eps: Tensor, known: State, beta: float) -> State:
    """The state at inverse temperature `beta` from what is known of both ends, which it carries along."""
    start, target, of_start, of_target = known
    value = (1 - beta) * start + beta * target
    return eps, value, (1 - beta) * of_start + beta * of_target, *known


class FromGuide(Path):
    """The start is the standard normal in the target's coordinates: the guide, or the Gaussian in its place."""

    def ends(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        start = -0.5 * eps.square().sum(-1) - LOG_SQRT_2_PI * eps.shape[-1]
        return start, self.target(eps)

    def draw(self, num_chains: int) -> Tensor:
        where = self.target.where
        like = next(iter(self.target.log_joint.batch.values()))
        return torch.randn(num_chains, where.num_rows, where.dim).to(like)


class FromPrior(Path):
    """The start is the story's prior of the continuous sites; one run of the story scores both ends.

    Arguments:
        target: The posterior's side.
        story: The story, for exact draws.
        covariates: Name -> `(B, *)`.
    """

    def __init__(self, target: Target, story: nn.Module, covariates: TensorDict) -> None:
        super().__init__(target)
        self.story, self.covariates = story, covariates

    def ends(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        latents, log_det = self.target.unflatten(eps)
        log_joint = self.target.log_joint
        finite = log_joint.left_out(latents)
        if finite is None:
            by_site = log_joint.by_site(latents)
            sites = log_joint.sites
            prior = sum(by_site[name] for name in sites.latent)
            total = sum(v for name, v in by_site.items() if sites[name].is_local)
            return prior + log_det, total + log_det
        every = finite.sibling_path(latents, eps.shape[1], eps.device)
        by_site = log_joint.by_site(every)
        each = sum((by_site[name] for name in every), log_det.new_zeros(()))
        prior = each.reshape(len(eps), finite.count, -1).logsumexp(1)
        return prior + log_det, log_joint(latents) + log_det

    def draw(self, num_chains: int) -> Tensor:
        flat, where = self.target.flat, self.target.where
        u = _prior_draws(self.story, flat, self.covariates, where.num_rows, num_chains)
        return where.pull(u)


def path_of(
    start: str, story: nn.Module, guide: nn.Module | None, batch: TensorDict, sites: Sites
) -> Path:
    """The path that a start names, on these rows.

    Arguments:
        start: A key of `STARTS`.
        story: The story.
        guide: The guide; not needed for the prior.
        batch: Rows, name -> `(B, *event)`.
        sites: The story's sites.

    Raises:
        ValueError: If there is no guide to start from, or the prior cannot be drawn from.
    """
    log_joint, flat = LogJoint(story, batch, sites), Flat(sites.local_continuous)
    if start == "guide":
        if guide is None:
            raise ValueError(
                "expected a guide to start annealing from, got none; pass guide=..., or Annealing(start='prior')"
            )
        return FromGuide(Target(log_joint, flat, coordinates_of(guide, batch, sites)))
    if hasattr(story, "run_conditioned"):
        raise ValueError(
            "expected a story that generates rows for annealing from the prior, got an adopted model, which observes "
            "its data by itself; start from its guide"
        )
    covariates = split_batch(story, batch)[1]
    where = _prior_scales(story, flat, covariates, num_rows_of(batch))
    return FromPrior(Target(log_joint, flat, where), story, covariates)


def _prior_scales(
    story: nn.Module, flat: Flat, covariates: TensorDict, num_rows: int
) -> Coordinates:
    """Noise scaled by the prior's spread, the same for every row: the prior of a row is not needed for that."""
    u = _prior_draws(story, flat, covariates, num_rows, -(-PRIOR_DRAWS // num_rows)).flatten(0, 1)
    loc, scale = u.mean(0), u.std(0).clamp(min=1e-6)
    return affine(loc.expand(num_rows, -1), torch.diag_embed(scale).expand(num_rows, -1, -1))


def _prior_draws(
    story: nn.Module, flat: Flat, covariates: TensorDict, num_rows: int, num_draws: int
) -> Tensor:
    """u of rows that the story generates under these covariates, `(S, B, d)`."""
    every = {k: v.repeat(num_draws, *(1,) * (v.dim() - 1)) for k, v in covariates.items()}
    drawn = simulate(story, num_draws * num_rows, seed=None, **every)
    return flat.flatten({k: drawn[k] for k in flat.sites}).unflatten(0, (num_draws, num_rows))
