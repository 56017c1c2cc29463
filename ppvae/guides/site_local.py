r"""The unamortized version of a guide that is not of this library."""

__all__ = ["SiteLocal"]

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import transform_to

from ppvae.guides.base import GlobalGuide, GuideBase
from ppvae.guides.pushforward import RealVector
from ppvae.guides.site_sampler import SiteSampler
from ppvae.story import DATA_PLATE, Batch, Flat, Sites, TensorDict, local_params, seeded


class SiteLocal(GuideBase):
    """Every local site keeps the class of its distribution and gets parameters for each row.

    Fits guides whose sites are independent of each other given the row, each a parametric
    distribution (Normal, LogNormal, Gamma, Beta, MultivariateNormal, ...), as tutorials write them.

    Arguments:
        guide: A Pyro guide, called with a batch.
        batch: The rows, name -> `(B, *event)`.
        sites: The story's sites.

    Raises:
        ValueError: If a site's parameters depend on another site's draw, or the guide draws
            discrete sites.
    """

    is_unamortized = True

    def __init__(self, guide: nn.Module, batch: TensorDict, sites: Sites) -> None:
        super().__init__(name="local")
        self.batch = batch
        self.site_sampler, self.discrete = SiteSampler(sites.local_continuous), None
        self.global_guide, self.row_dim = GlobalGuide(Sites()), sites.row_dim
        self.rows = nn.ParameterDict()
        self.networks = nn.ParameterDict()
        self.factors: dict[str, tuple[Any, int, tuple[str, ...]]] = {}
        first, second = (_traced(guide, batch, seed) for seed in (0, 1))
        discrete = sorted(set(sites.local_discrete) & set(first))
        if discrete:
            raise ValueError(
                "expected a guide that draws continuous sites alone, or one of ppvae.guides, for "
                f"a search for q*; got one that draws the discrete {discrete}"
            )
        for name in self.flat.sites:
            self._add_site(name, first[name]["fn"], second[name]["fn"])

    def _add_site(self, name: str, fn: Any, again: Any) -> None:
        """Give each row parameters of one site's distribution."""
        if not self.flat.sites[name].layout.is_simple:
            raise ValueError(
                f"site '{name}': expected a site in the plate '{DATA_PLATE}' alone, at batch "
                "dimension -1, got inner plates; use one of ppvae.guides to measure its gaps"
            )
        base, num_event = _unwrap(fn)
        other = _unwrap(again)[0]
        keys = _parameter_names(base)
        for key in keys:
            value = getattr(base, key)
            if not torch.equal(value, getattr(other, key)):
                raise ValueError(
                    f"site '{name}': expected a guide whose sites are independent given the row, "
                    f"got a {key} that depends on another draw; use one of ppvae.guides to measure "
                    "its gaps"
                )
            raw = transform_to(base.arg_constraints[key]).inv(value.detach()).clone()
            self.rows[_attribute(name, key)] = nn.Parameter(raw)
        self.factors[name] = (type(base), num_event, keys)

    def parameters_of(self, batch: Batch) -> TensorDict:
        """The rows' own parameters on unconstrained space, name -> `(B, *shape)`."""
        return dict(self.rows.items())

    def distribution(self, parameters: TensorDict) -> Distribution:
        """q(u | x) over the local latent sites as one real vector, batch shape `(B,)`."""
        sites = {}
        for name, (family, num_event, keys) in self.factors.items():
            arguments = {
                key: transform_to(family.arg_constraints[key])(parameters[_attribute(name, key)])
                for key in keys
            }
            sites[name] = family(**arguments).to_event(num_event)
        return SiteProduct(sites, self.flat)


class SiteProduct(RealVector):
    """Independent sites, seen as one distribution over `u`."""

    def __init__(self, sites: dict[str, Any], flat: Flat) -> None:
        self.sites, self.flat = sites, flat
        super().__init__(next(iter(sites.values())).batch_shape[:1], flat.dim)

    def sample_sites(self) -> None:
        """Sample every site, as a part of a guide."""
        with pyro.plate(DATA_PLATE, self.batch_shape[0], dim=-1):
            for name, fn in self.sites.items():
                pyro.sample(name, fn)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.flat.flatten({n: q.rsample(sample_shape) for n, q in self.sites.items()})

    def log_prob(self, value: Tensor) -> Tensor:
        latents, log_det = self.flat.unflatten(value)
        return log_det + sum(q.log_prob(latents[n]) for n, q in self.sites.items())


def _traced(guide: nn.Module, batch: TensorDict, seed: int) -> Any:
    with torch.no_grad(), local_params(guide), seeded(seed, guide):
        return poutine.trace(guide).get_trace(batch).nodes


def _attribute(name: str, key: str) -> str:
    """A parameter's name may hold no dot, a site's may."""
    return f"{name.replace('.', '/')}/{key}"


def _unwrap(fn: Any) -> tuple[Any, int]:
    """A distribution without its `to_event`, and the number of event dimensions that it made."""
    num_event = 0
    while isinstance(fn, dist.Independent):
        num_event += fn.reinterpreted_batch_ndims
        fn = fn.base_dist
    return fn, num_event


def _parameter_names(base: Any) -> tuple[str, ...]:
    """The arguments that make a distribution, in the form that it computes with."""
    if isinstance(base, dist.MultivariateNormal):
        return ("loc", "scale_tril")
    if isinstance(base, dist.Bernoulli | dist.Categorical):
        return ("logits",)
    return tuple(base.arg_constraints)
