r"""A label, a number and a measurement: a story with a discrete and a continuous cause, all in
closed form."""

__all__ = ["LabelGuide", "MixturePosterior", "MixturePrior", "labelled_rows"]

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae

NOISE = 0.8


class MixturePrior(PyroModule):
    """y ~ Categorical(3), z ~ N(center[y], 1), x ~ N(z, 0.8): the posterior of z is a mixture of
    three."""

    def __init__(self):
        super().__init__()
        self.register_buffer("log_share", torch.tensor([0.2, 0.5, 0.3]).double().log())
        self.register_buffer("center", torch.tensor([-3.0, 0.5, 3.0]).double())

    def forward(self, n):
        with pyro.plate("data", n):
            y = pyro.sample("y", dist.Categorical(logits=self.log_share))
            z = pyro.sample("z", dist.Normal(self.center[y], 1.0))
            pyro.sample("x", dist.Normal(z, NOISE))

    def log_evidence(self, batch):
        spread = (1 + NOISE**2) ** 0.5
        return (self.log_share + self.log_x(batch["x"], spread)).logsumexp(-1)

    def log_x(self, x, spread):
        return dist.Normal(self.center, spread).log_prob(x[:, None])

    def log_prior(self, z):
        """log p(z), y summed out."""
        return (self.log_share + dist.Normal(self.center, 1.0).log_prob(z[..., None])).logsumexp(-1)

    def log_label(self, batch):
        """log p(y | x), `(B, 3)`; a label that is shown is certain."""
        log_p = self.log_share + self.log_x(batch["x"], (1 + NOISE**2) ** 0.5)
        if "y" in batch:
            values = torch.arange(3.0).to(log_p)
            shown = ~torch.isnan(batch["y"])[:, None]
            log_p = log_p.masked_fill(shown & (batch["y"][:, None] != values), -torch.inf)
        return log_p.log_softmax(-1)


class MixturePosterior(nn.Module):
    """The exact p(z | x) with its scales times `factor`, moved by `shift`; the label is left
    out."""

    def __init__(self, story, factor=1.0, shift=0.0):
        super().__init__()
        self.story, self.factor, self.shift = (story,), factor, shift

    def forward(self, batch):
        story, x = self.story[0], batch["x"]
        precision = 1 + 1 / NOISE**2
        loc = (story.center + x[:, None] / NOISE**2) / precision + self.shift
        scale = torch.full_like(loc, self.factor / precision**0.5)
        with pyro.plate("data", len(x)):
            label = dist.Categorical(logits=story.log_label(batch))
            pyro.sample("z", dist.MixtureSameFamily(label, dist.Normal(loc, scale)))


class LabelGuide(nn.Module):
    """Of a story whose only cause is k: the exact p(k | x), or with `heat` a flatter one."""

    def __init__(self, log_label, heat=1.0):
        super().__init__()
        self.log_label, self.heat = log_label, heat

    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("k", dist.Categorical(logits=self.log_label(batch["x"]) / self.heat))


def labelled_rows(story, n, seed=0):
    """Rows of which every third misses its label."""
    drawn = ppvae.simulate(story, n, seed=seed)
    y = drawn["y"].double()
    y[::3] = torch.nan
    return {"x": drawn["x"], "y": y}
