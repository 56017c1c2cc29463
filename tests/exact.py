r"""A linear-Gaussian story in float64 with random loadings and unequal noise, and guides around its posterior."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import ppvae
from ppvae.gallery import load_story

FactorAnalysis = type(load_story("factor_analysis", {"x": torch.zeros(2, 3)}))


def linear_gaussian(data_dim: int = 8, latent_dim: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    story = FactorAnalysis(data_dim, latent_dim).double()
    with torch.no_grad():
        story.offset.copy_(torch.randn(data_dim))
        story.noise_scale = 0.5 + torch.rand(data_dim).double()
    return story


def rows_of(story: nn.Module, n: int, seed: int = 1) -> dict[str, Tensor]:
    return {"x": ppvae.simulate(story, n, seed=seed)["x"]}


def mean_field_gap(story: nn.Module) -> float:
    """1/2 (sum log Lambda_ii - log det Lambda), in nats."""
    precision = story.posterior_precision().detach()
    return float(0.5 * (precision.diagonal().log().sum() - precision.logdet()))


class ScaledPosterior(nn.Module):
    """The exact posterior with its scale times `factor` and its mean moved by `shift`."""

    def __init__(self, story: nn.Module, factor: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.story, self.factor, self.shift = (story,), factor, shift

    def forward(self, batch: dict[str, Tensor]) -> None:
        q = self.story[0].posterior(batch)
        with pyro.plate("data", len(batch["x"])):
            loc, scale = q.loc + self.shift, q.scale_tril * self.factor
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=scale))
