r"""Guides that are wrong in one known way, beside `exact.ScaledPosterior`."""

__all__ = ["FromPrior", "MixedUp", "OneMode", "PriorGuide", "TwoModes", "wrong_guides"]

import pyro
import pyro.distributions as dist
import torch
from exact import ScaledPosterior
from torch import nn


class PriorGuide(nn.Module):
    """Ignores the row and answers with the prior N(0, I)."""

    def __init__(self, story):
        super().__init__()
        self.zero = story.zero

    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))


class FromPrior(nn.Module):
    """Answers with the prior of any story without covariates."""

    def __init__(self, story):
        super().__init__()
        self.story = (story,)

    def forward(self, batch):
        with pyro.poutine.block(hide=list(batch)):
            self.story[0](len(next(iter(batch.values()))))


class MixedUp(nn.Module):
    """The exact posterior's marginals without its correlations."""

    def __init__(self, story):
        super().__init__()
        self.story = (story,)

    def forward(self, batch):
        q = self.story[0].posterior(batch)
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", dist.Normal(q.loc, q.variance.sqrt()).to_event(1))


class TwoModes(pyro.nn.PyroModule):
    """x ~ N(z^2, 0.5): the sign of z is lost, so that a posterior has two modes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(1, dtype=torch.float64))

    def forward(self, n):
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.square(), 0.5).to_event(1))


class OneMode(nn.Module):
    """A Gaussian on the positive mode of `TwoModes`."""

    def forward(self, batch):
        x = batch["x"]
        with pyro.plate("data", len(x)):
            loc = x.clamp(min=0.3).sqrt()
            pyro.sample("z", dist.Normal(loc, 0.3 / loc.clamp(min=1.0)).to_event(1))


def wrong_guides(story):
    """Name -> guide of the linear-Gaussian story."""
    return {
        "right": ScaledPosterior(story),
        "wide": ScaledPosterior(story, 1.5),
        "narrow": ScaledPosterior(story, 0.6),
        "shifted": ScaledPosterior(story, 1.0, 0.25),
        "prior": PriorGuide(story),
        "uncorrelated": MixedUp(story),
    }
