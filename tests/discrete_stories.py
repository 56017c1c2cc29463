r"""Stories of discrete sites, and a guide made for one."""

import pyro
import pyro.distributions as dist
import torch
from built import seeded_guide
from pyro.nn import PyroModule
from torch import nn

import ppvae

DRAWS = ["categorical", "concrete"]


class Codes(PyroModule):
    """Two one-hot letters and a coin decide the mean of three numbers."""

    def __init__(self, continuous=False):
        super().__init__()
        self.continuous = continuous
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.decoder = nn.Linear(9, 3)
        self.register_buffer("letters", torch.tensor([[0.0, 1.0, 0.5, 0.0], [0.3, 0.0, 0.0, 1.0]]))

    def forward(self, n):
        with pyro.plate("data", n):
            word = pyro.sample("word", dist.OneHotCategorical(logits=self.letters).to_event(1))
            coin = pyro.sample("coin", dist.Bernoulli(self.letters[1, 0].double()))
            loc = self.decoder(torch.cat([word.flatten(-2), coin.unsqueeze(-1).to(word)], -1))
            if self.continuous:
                loc = loc + pyro.sample("z", dist.Normal(self.letters[0, :3], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(loc, 0.7).to_event(1))


class Counts(PyroModule):
    """A whole number of heads, and a category, as plain numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("chance", torch.tensor(0.5).double())

    def forward(self, n):
        with pyro.plate("data", n):
            heads = pyro.sample("heads", dist.Binomial(4, self.chance))
            with pyro.plate("parts", 2):
                kind = pyro.sample("kind", dist.Categorical(logits=self.chance.expand(3)))
                pyro.sample("x", dist.Normal(heads + kind, 1.0))


def made(family, story, n=20, **options):
    story = story.double()
    x = ppvae.simulate(story, n, seed=0)["x"]
    return story, {"x": x}, seeded_guide(family, story, x, hidden=(8,), **options)
