r"""Semi-amortized: the encoder's parameters, improved by a few gradient steps for each row."""

__all__ = ["SemiAmortized"]

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.auxiliary import AuxiliaryMixture
from ppvae.guides.base import GuideBase, refuse_below_one
from ppvae.guides.families import PLAIN
from ppvae.guides.pushforward import Pushforward
from ppvae.options import refuse_unknown_options
from ppvae.story import (
    Batch,
    LogJoint,
    TensorDict,
    as_batch,
    eval_mode,
    isolated,
    seeded,
)

# Adam's decay of the mean and of the mean square of the gradients; below `SMALL_GRADIENT`, in nats
# per unit, a gradient is not blown up to a whole step.
DECAY, SQUARE_DECAY, SMALL_GRADIENT = 0.9, 0.9, 1e-2


# Attributes shared with the guide at whose parameters the steps start.
PARTS = (
    "sites", "site_sampler", "discrete", "row_dim", "shapes", "sizes", "global_guide", "transport",
)  # fmt: skip


class SemiAmortized(Guide):
    r"""A family whose parameters take gradient steps from those of the encoder,
    :math:`\lambda_{k+1} = \lambda_k + \alpha \nabla L(\lambda_k)`.

    q(z | x) is still a fixed function of the row: the draws behind the steps come from one seed and
    are the same for every row, and the story runs in evaluation mode. The steps are Adam's, shorter
    towards the end, and their sizes are trained with the encoder. Networks of a flow stay shared.
    Use it in training, or at test time alone around a trained guide: `SemiAmortized.of`. Other
    arguments as for the family; the story that the guide is built with is the one whose ELBO it
    climbs.

    Arguments:
        family: Name of the family. Its options may stand beside these; of two with one name, the
            one here is meant.
        num_steps: Steps; an attribute that may be changed at any time.
        num_particles: Particles of each row and step.
        step_size: First step of each unconstrained parameter, before training.
        backprop: Whether training sees how the encoder's parameters change the steps (second
            derivatives), as if they were layers; else the steps count as constants.
        seed: Seed of the draws behind the steps.

    Attributes:
        log_joint_of: What the steps raise: from a batch to a function of its latent sites that
            gives log p(x, z), `(S, B)`, in nats.

    Raises:
        ValueError: If the family is unknown, draws discrete sites, or does not suit the story; if a
            count or the step size is not positive.

    Source:
        Y. Kim, S. Wiseman, A. C. Miller, D. Sontag, A. M. Rush (2018). Semi-amortized variational
        autoencoders. J. Marino, Y. Yue, S. Mandt (2018). Iterative amortized inference.
    """

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        family: str = "mean_field",
        num_steps: int = 5,
        num_particles: int = 4,
        step_size: float = 0.1,
        backprop: bool = False,
        seed: int = 0,
        name: str = "guide",
        **options: Any,
    ) -> None:
        if family not in PLAIN:
            raise ValueError(f"expected a family among {', '.join(PLAIN)}; got '{family}'")
        refuse_unknown_options(f"family '{family}'", PLAIN[family], Guide, options)
        start = PLAIN[family](story, data, name=f"{name}_start", **options)
        settings = (num_steps, num_particles, step_size, backprop, seed)
        self._put_steps_behind(start, story, name, *settings)

    @classmethod
    def of(
        cls,
        story: nn.Module,
        guide: Guide,
        *,
        num_steps: int = 20,
        num_particles: int = 8,
        step_size: float = 0.1,
        backprop: bool = False,
        seed: int = 0,
    ) -> "SemiAmortized":
        """Put steps behind a guide, trained or not, which stays as it is and is shared.

        Arguments:
            story: The story that the guide belongs to.
            guide: A guide of `ppvae.guides` that draws no discrete sites.
            num_steps, num_particles, step_size, backprop, seed: As in the class.

        Returns:
            The guide with steps.

        Raises:
            ValueError: If the guide has no family parameters, or has steps.
        """
        if not isinstance(guide, Guide) or isinstance(guide, SemiAmortized):
            raise ValueError(
                "expected an amortized guide of ppvae.guides without steps, got "
                f"{type(guide).__name__}"
            )
        made = cls.__new__(cls)
        settings = (num_steps, num_particles, step_size, backprop, seed)
        made._put_steps_behind(guide, story, "guide", *settings)
        return made

    def _put_steps_behind(
        self,
        start: Guide,
        story: nn.Module,
        name: str,
        num_steps: int,
        num_particles: int,
        step_size: float,
        backprop: bool,
        seed: int,
    ) -> None:
        refuse_below_one(num_steps=num_steps, num_particles=num_particles)
        if not step_size > 0:
            raise ValueError(f"expected a step_size above 0, got {step_size}")
        if start.discrete is not None or not start.sizes:
            raise ValueError(
                f"expected a family of continuous sites, got {type(start).__name__}, whose sites "
                "are drawn from logits"
            )
        GuideBase.__init__(self, name=name)
        self.stories = (story,)  # in a tuple: the story is no part of the guide
        self.log_joint_of = partial(LogJoint, story, sites=start.sites)
        # In a plain list: Pyro lets no module that has run become part of another PyroModule.
        self.start = nn.ModuleList([start])
        for part in PARTS:
            self.__dict__[part] = getattr(start, part)
        self.num_steps, self.num_particles = num_steps, num_particles
        self.backprop, self.seed = backprop, seed
        # Settings, weights and rows of the last steps (copies: fused optimisers change weights in
        # place without a mark), and the parameters after them.
        self._cached: tuple[Any, list[Tensor], TensorDict] = (None, [], {})
        log_step = torch.full((len(start.shapes),), step_size).log()
        self.log_step = nn.Parameter(log_step.to(start.to_parameters.bias))
        self.train(start.training)

    @property
    def inner(self) -> Any:
        """The guide at whose parameters the steps start."""
        return self.start[0]

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return self.inner.parameter_shapes(dim)

    def family(self, parameters: TensorDict, transport: Any) -> Distribution:
        return self.inner.family(parameters, transport)

    def parameters_of(self, batch: Batch) -> TensorDict:
        """Parameters after the steps, name -> `(B, *shape)`; kept for the next run on these
        rows."""
        batch = as_batch(batch)
        if self.training or torch.is_grad_enabled():
            return self._after_steps(batch)
        settings = (tuple(batch), self.num_steps, self.num_particles, self.seed)
        modules = (self, *self.stories)
        depends = [t for m in modules for t in (*m.parameters(), *m.buffers())] + [*batch.values()]
        old_settings, old, parameters = self._cached
        if old_settings != settings or not all(map(_same, old, depends)):
            parameters = self._after_steps(batch)
            self._cached = settings, [t.detach().clone() for t in depends], parameters
        return dict(parameters)

    def _after_steps(self, batch: TensorDict) -> TensorDict:
        """Adam's steps, every row by itself, the last one the shortest."""
        story, parameters = self.stories[0], self.inner.parameters_of(batch)
        sizes = dict(zip(parameters, self.log_step.exp(), strict=True))
        means = {k: torch.zeros_like(v) for k, v in parameters.items()}
        squares = dict(means)
        with seeded(self.seed, story), isolated(), eval_mode(story), pyro.validation_enabled(False):
            log_joint = self.log_joint_of(batch)
            for count in range(self.num_steps):
                for key, gradient in self._gradients(log_joint, parameters).items():
                    means[key] = torch.lerp(gradient, means[key], DECAY)
                    squares[key] = torch.lerp(gradient.square(), squares[key], SQUARE_DECAY)
                    mean = means[key] / (1 - DECAY ** (count + 1))
                    square = squares[key] / (1 - SQUARE_DECAY ** (count + 1))
                    step = sizes[key] * (1 - count / self.num_steps)
                    change = step * mean / (square + SMALL_GRADIENT**2).sqrt()
                    parameters = {**parameters, key: parameters[key] + change}
        return parameters

    def _gradients(self, log_joint: LogJoint, parameters: TensorDict) -> TensorDict:
        """Gradient of each row's ELBO, name -> `(B, *shape)`, in nats per unit."""
        as_layers = self.backprop and torch.is_grad_enabled()
        if not as_layers:
            parameters = {k: v.detach() for k, v in parameters.items()}
        with torch.enable_grad():
            moving = {k: v.clone().requires_grad_() for k, v in parameters.items()}
            u, log_q = self._draws(moving, parameters)
            latents, log_det = self.flat.unflatten(u)
            elbo = log_joint(self._global_draws(u) | latents) + log_det - log_q
            gradients = torch.autograd.grad(
                elbo.mean(0).sum(), list(moving.values()), create_graph=as_layers
            )
        return {
            k: torch.nan_to_num(g, 0.0, 0.0, 0.0) for k, g in zip(moving, gradients, strict=True)
        }

    def _draws(self, moving: TensorDict, fixed: TensorDict) -> tuple[Tensor, Tensor]:
        """Particles `(S, B, d)` with the same noise for every row, and their log q `(S, B)`.

        As in the search for q*, the score of q is left out of the gradient, except of flows, which
        would need their inverse, and of `auxiliary`, whose reverse model learns from it.
        """

        def of_row(moving: TensorDict, fixed: TensorDict) -> tuple[Tensor, Tensor]:
            q: Any = self.distribution({k: v.unsqueeze(0) for k, v in moving.items()})
            u = q.rsample((self.num_particles,))
            if not isinstance(q, Pushforward | AuxiliaryMixture):
                q = self.distribution({k: v.unsqueeze(0) for k, v in fixed.items()})
            return u.squeeze(1), q.log_prob(u).squeeze(1)

        return torch.func.vmap(of_row, out_dims=1, randomness="same")(moving, fixed)

    def _global_draws(self, like: Tensor) -> TensorDict:
        """Draws of the global sites, which the steps take as they are, name -> `(S, *event)`."""
        flat = self.global_guide.site_sampler.flat
        if not flat.dim:
            return {}
        loc, scale = self.global_guide.loc.detach(), self.global_guide.log_scale.detach().exp()
        return flat.unflatten(loc + scale * torch.randn(len(like), flat.dim).to(like))[0]


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal in value, type and device, which `torch.equal` alone does not compare."""
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
