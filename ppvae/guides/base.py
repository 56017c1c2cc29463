r"""What amortized and unamortized guides share: one real vector, drawn at the story's sites."""

__all__ = ["LOGITS", "GlobalGuide", "GuideBase", "diagonal", "positive", "refuse_below_one"]

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import Distribution
from pyro.nn import PyroModule
from pyro.nn.module import _PyroModuleMeta
from torch import Tensor, nn

from ppvae.guides.discrete import DiscreteSampler, plain_site_distribution
from ppvae.guides.site_sampler import SiteSampler
from ppvae.story import DATA_PLATE, Batch, Flat, Site, Sites, TensorDict, as_batch, num_rows_of

# Name of the parameters that a guide's discrete sites are drawn from.
LOGITS = "logits"
MIN_SCALE = 1e-6
INVERSE_SOFTPLUS_OF_ONE = 0.5413248546129181
INITIAL_GLOBAL_SCALE = 0.1


def diagonal(parameters: TensorDict) -> Distribution:
    """Independent Normals from `loc` and `raw_scale`, `(B, d)` each."""
    return dist.Normal(parameters["loc"], positive(parameters["raw_scale"])).to_event(1)


def positive(raw: Tensor) -> Tensor:
    """A scale from an unconstrained number: 1 at 0, linear where exp would overflow."""
    return F.softplus(raw + INVERSE_SOFTPLUS_OF_ONE) + MIN_SCALE


def refuse_below_one(**sizes: int | Sequence[int]) -> None:
    """Refuse options that count something and are, or hold, a number below 1."""
    for name, size in sizes.items():
        if min([size] if isinstance(size, int) else size, default=1) < 1:
            raise ValueError(f"expected {name} of at least 1, got {size}")


class GlobalGuide(PyroModule):
    """A mean-field guide of the sites outside the plate `data`: free parameters, no encoder."""

    def __init__(self, sites: Sites) -> None:
        super().__init__()
        self.site_sampler = SiteSampler(sites)
        dim = self.site_sampler.flat.dim
        if dim:  # no parameters of size zero: they would never move
            self.loc = nn.Parameter(torch.zeros(dim))
            self.log_scale = nn.Parameter(torch.full((dim,), INITIAL_GLOBAL_SCALE).log())

    def forward(self) -> None:
        if self.site_sampler.flat.dim:
            self.site_sampler(dist.Normal(self.loc, self.log_scale.exp()).to_event(1))


class _AbstractModule(_PyroModuleMeta, ABCMeta):
    """Lets a PyroModule, which has a metaclass of its own, have abstract methods."""


class GuideBase(PyroModule, metaclass=_AbstractModule):
    """What amortized and unamortized guides share: sampling q(u | x) inside the plate `data`.

    Attributes:
        is_unamortized: Whether it holds parameters for each row, and so serves its own rows alone.
        adds_to_loss: Whether its loss in training has terms that the ELBO has not.
        site_sampler: Puts draws of `u` at the continuous sites.
        discrete: Draws the discrete sites; None leaves them out, to be summed over.
        global_guide: The part of the guide outside the plate.
        row_dim: Batch dimension (negative) of the plate.
        stories: The story, of a guide that runs it on the way to its draws.
    """

    is_unamortized = False
    adds_to_loss = False
    site_sampler: SiteSampler
    discrete: DiscreteSampler | None
    global_guide: GlobalGuide
    row_dim: int
    stories: tuple[nn.Module, ...] = ()

    @abstractmethod
    def parameters_of(self, batch: Batch) -> TensorDict:
        """Family parameters of each row, name -> `(B, *shape)`."""

    @abstractmethod
    def distribution(self, parameters: TensorDict) -> Distribution:
        """The family's distribution over `u` for these parameters."""

    def site_distribution(self, site: Site, logits: Tensor) -> Distribution:
        """What a discrete site's entries are drawn from; a family may relax it in training."""
        return plain_site_distribution(site, logits)

    @property
    def flat(self) -> Flat:
        """The map between the local latent sites and `u`."""
        return self.site_sampler.flat

    def posterior(self, batch: Batch) -> Distribution:
        """q(u | x) over the continuous local latent sites as one real vector.

        Arguments:
            batch: Name -> `(B, *event)`.

        Returns:
            A distribution of batch shape `(B,)` and event shape `(d,)`; `guide.flat.unflatten`
            turns its samples into sites.
        """
        return self.distribution(self.parameters_of(batch))

    def forward(self, batch: Batch) -> None:
        """Sample every latent site: the guide as a Pyro program."""
        batch = as_batch(batch)
        self.global_guide()
        parameters = self.parameters_of(batch)
        ones = (1,) * (-1 - self.row_dim)
        if ones:  # the story put other plates right of `data`
            parameters = {k: v.reshape(len(v), *ones, *v.shape[1:]) for k, v in parameters.items()}
        q: Any = self.distribution(parameters) if self.flat.dim else None
        if hasattr(q, "sample_sites"):  # a program with plates of its own
            q.sample_sites()
            return
        with pyro.plate(DATA_PLATE, num_rows_of(batch), dim=self.row_dim):
            if q is not None:
                self.site_sampler(q)
            if self.discrete is not None:
                self.discrete(parameters[LOGITS], self.site_distribution)
