r"""Small nasty stories for the contract tests: every shape, support and plate that a guide must
serve."""

__all__ = ["CASES", "Case", "built", "rows_of"]

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.guides import build
from ppvae.story import simulate


class Small(PyroModule):
    """One scale that is learnt, so that each story has a parameter and a precision."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = PyroParam(torch.tensor(0.7), constraints.positive)
        self.register_buffer("zero", torch.zeros(3))


class TwoSites(Small):
    """Two latent sites, a scalar and a vector, in one likelihood."""

    def forward(self, n):
        with pyro.plate("data", n):
            a = pyro.sample("a", dist.Normal(self.zero[0], 1.0))
            b = pyro.sample("b", dist.Normal(self.zero[:2], 1.5).to_event(1))
            loc = a.unsqueeze(-1) + torch.cat([b, b.prod(-1, keepdim=True)], -1)
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1))


class Positive(Small):
    def forward(self, n):
        with pyro.plate("data", n):
            rate = pyro.sample("rate", dist.Gamma(self.zero[:2] + 2.0, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(rate.log(), self.noise).to_event(1))


class LogNormalScalar(Small):
    def forward(self, n):
        with pyro.plate("data", n):
            size = pyro.sample("size", dist.LogNormal(self.zero[0], 0.5))
            pyro.sample("x", dist.Normal(size, self.noise))


class HeavyTail(Small):
    def forward(self, n):
        with pyro.plate("data", n):
            tau = pyro.sample("tau", dist.HalfCauchy(self.zero[0] + 1.0))
            pyro.sample("x", dist.Normal(self.zero, tau.unsqueeze(-1) + 0.1).to_event(1))


class Bounded(Small):
    """The bounds of the support are tensors, which Pyro expands over the plate."""

    def forward(self, n):
        with pyro.plate("data", n):
            angle = pyro.sample("angle", dist.Uniform(self.zero[:2] - 2.0, 3.0).to_event(1))
            pyro.sample("x", dist.Normal(angle.sum(-1), self.noise))


class UnitInterval(Small):
    def forward(self, n):
        with pyro.plate("data", n):
            p = pyro.sample("p", dist.Beta(self.zero[0] + 2.0, 3.0))
            pyro.sample("x", dist.Bernoulli(p.unsqueeze(-1).expand(*p.shape, 3)).to_event(1))


class Simplex(Small):
    def forward(self, n):
        with pyro.plate("data", n):
            share = pyro.sample("share", dist.Dirichlet(self.zero + 1.5))
            pyro.sample("x", dist.Normal(share[..., :2], self.noise).to_event(1))


class Ordered(Small):
    def forward(self, n):
        with pyro.plate("data", n):
            cut = dist.TransformedDistribution(
                dist.Normal(self.zero, 1.0).to_event(1), [dist.transforms.OrderedTransform()]
            )
            cuts = pyro.sample("cuts", cut)
            pyro.sample("x", dist.Normal(cuts, self.noise).to_event(1))


class Correlation(Small):
    def forward(self, n):
        with pyro.plate("data", n):
            chol = pyro.sample("chol", dist.LKJCholesky(3, self.zero[0] + 2.0))
            pyro.sample("x", dist.MultivariateNormal(self.zero, scale_tril=chol))


class Scalar(Small):
    """No event dimension anywhere."""

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero[0], 1.0))
            pyro.sample("x", dist.Normal(2.0 * z, self.noise))


class Matrix(Small):
    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero.expand(2, 3), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z.sum(-1), self.noise).to_event(1))


class InnerAuto(Small):
    """An inner plate whose dimension Pyro chooses: `data` at -1, `parts` at -2."""

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero[0], 1.0))
            with pyro.plate("parts", 4):
                w = pyro.sample("w", dist.LogNormal(z, 1.0))
                pyro.sample("x", dist.Normal(w, self.noise))


class InnerExplicit(Small):
    """The rows stand left of the inner plate: `data` at -2, `parts` at -1."""

    def forward(self, n):
        with pyro.plate("data", n, dim=-2):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            with pyro.plate("parts", 4, dim=-1):
                share = pyro.sample("share", dist.Dirichlet(self.zero + 2.0))
                pyro.sample("x", dist.Normal((z * share).sum(-1), self.noise))


class DeepPlates(Small):
    """Two inner plates, one of them shared by a latent site."""

    def forward(self, n):
        with pyro.plate("data", n, dim=-2), pyro.plate("left", 2, dim=-3):
            v = pyro.sample("v", dist.Normal(self.zero[0], 1.0))
            with pyro.plate("right", 3, dim=-1):
                w = pyro.sample("w", dist.Normal(v, 1.0))
                pyro.sample("x", dist.Normal(w, self.noise))


class Global(Small):
    """A global location beside a local one."""

    def forward(self, n):
        level = pyro.sample("level", dist.Normal(self.zero[0], 2.0))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(level, 1.0))
            pyro.sample("x", dist.Normal(z, self.noise))


class GlobalPlate(Small):
    """Global sites in a plate of their own, one of them constrained."""

    def forward(self, n):
        with pyro.plate("sensors", 3):
            gain = pyro.sample("gain", dist.LogNormal(self.zero[0], 0.3))
            bias = pyro.sample("bias", dist.Normal(self.zero[:2], 1.0).to_event(1))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero[0], 1.0))
            if gain.dim() > 1:  # particles: (S, sensors) to (S, rows, sensors)
                gain, bias = gain.unsqueeze(-2), bias.unsqueeze(-3)
            loc = gain * z.unsqueeze(-1) + bias.sum(-1)
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1))


class Covariate(Small):
    """A regression: `dose` is given, not generated."""

    def forward(self, n, dose):
        with pyro.plate("data", n):
            effect = pyro.sample("effect", dist.Normal(self.zero[0], 1.0))
            pyro.sample("x", dist.Normal(effect * dose, self.noise))


class Hierarchical(Small):
    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Linear(2, 2)
        self.decoder = nn.Linear(2, 3)

    def forward(self, n):
        with pyro.plate("data", n):
            z2 = pyro.sample("z2", dist.Normal(self.zero[:2], 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.lower(z2), 0.5).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z1)).to_event(1))


class Chain(Small):
    """Two numbers, one hanging on the other."""

    def forward(self, n):
        with pyro.plate("data", n):
            top = pyro.sample("top", dist.Normal(self.zero[0], 1.0))
            low = pyro.sample("low", dist.LogNormal(top, 0.5))
            pyro.sample("x", dist.Normal(low, self.noise))


class SeveralObserved(Small):
    """A vector, a count and a number seen together, and a deterministic site in between."""

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero[:2], 1.0).to_event(1))
            loc = pyro.deterministic("loc", z.cumsum(-1), event_dim=1)
            pyro.sample("x", dist.Normal(loc, self.noise).to_event(1))
            pyro.sample("count", dist.Poisson(z[..., 0].exp()))
            pyro.sample("size", dist.LogNormal(z[..., 1], self.noise))


class Dropout(Small):
    """A decoder that draws noise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.ELU(), nn.Linear(8, 3))

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero[:2], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.noise).to_event(1))


class Names(Small):
    """Sites and data named like attributes of guides and modules, one of them with a dot."""

    def forward(self, n):
        with pyro.plate("data", n):
            place = pyro.sample("place", dist.Normal(self.zero[0], 1.0))
            keys = pyro.sample("keys", dist.LogNormal(self.zero[0], 1.0))
            rows = pyro.sample("rows.loc", dist.Normal(self.zero[:2], 1.0).to_event(1))
            loc = (place + keys).unsqueeze(-1) + rows
            pyro.sample("encoder", dist.Normal(loc, self.noise).to_event(1))
            pyro.sample("x.training", dist.Normal(place, self.noise))


@dataclass(frozen=True)
class Case:
    """A story and how data of it come about."""

    make: Callable[[], Small]
    observed: tuple[str, ...] = ("x",)
    covariates: tuple[str, ...] = ()

    def story(self, seed: int = 0) -> Small:
        """A fresh story in float64."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.make().double()


CASES = {
    "two_sites": Case(TwoSites),
    "positive": Case(Positive),
    "log_normal": Case(LogNormalScalar),
    "heavy_tail": Case(HeavyTail),
    "bounded": Case(Bounded),
    "unit_interval": Case(UnitInterval),
    "simplex": Case(Simplex),
    "ordered": Case(Ordered),
    "correlation": Case(Correlation),
    "scalar": Case(Scalar),
    "matrix": Case(Matrix),
    "inner_auto": Case(InnerAuto),
    "inner_explicit": Case(InnerExplicit),
    "deep_plates": Case(DeepPlates),
    "global": Case(Global),
    "global_plate": Case(GlobalPlate),
    "covariate": Case(Covariate, covariates=("dose",)),
    "hierarchical": Case(Hierarchical),
    "chain": Case(Chain),
    "several_observed": Case(SeveralObserved, observed=("x", "count", "size")),
    "dropout": Case(Dropout),
    "names": Case(Names, observed=("encoder", "x.training")),
}


def rows_of(case: Case, story: Small, n: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """Rows that the story itself generates, with its covariates."""
    generator = torch.Generator().manual_seed(seed)
    given = {k: torch.randn(n, generator=generator, dtype=torch.float64) for k in case.covariates}
    rows = simulate(story, n, seed=seed, **given)
    return {**{k: rows[k] for k in case.observed}, **given}


def built(
    kind: str, n: int = 12, family: str = "mean_field"
) -> tuple[Small, nn.Module, dict[str, Tensor]]:
    """A story of `CASES`, a small guide of a family for it, and rows that it generates."""
    story = CASES[kind].story()
    rows = rows_of(CASES[kind], story, n)
    return story, build(family, story, rows, hidden=(8,)), rows
