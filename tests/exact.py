r"""A linear-Gaussian story in float64 with random loadings and unequal noise, and guides around
its posterior."""

import math

import pyro
import pyro.distributions as dist
import torch
from numpy.polynomial.hermite import hermgauss
from torch import Tensor, nn

import ppvae
from ppvae.guides.base import INVERSE_SOFTPLUS_OF_ONE, MIN_SCALE
from ppvae.stories import load as load_story

FactorAnalysis = type(load_story("factor_analysis", {"x": torch.zeros(2, 3)}))


def linear_gaussian(data_dim: int = 8, latent_dim: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    story = FactorAnalysis(data_dim, latent_dim).double()
    with torch.no_grad():
        story.offset.copy_(torch.randn(data_dim))
        story.noise_scale = 0.5 + torch.rand(data_dim).double()
    return story


def correlated(latent_dim: int = 3) -> nn.Module:
    """A linear-Gaussian story whose posterior has strong correlations."""
    story = linear_gaussian(data_dim=6, latent_dim=latent_dim)
    with torch.no_grad():
        story.loadings.add_(2.0)
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


def at_posterior(story: nn.Module, batch: dict[str, Tensor]) -> nn.Module:
    """An amortized full-rank guide whose linear encoder answers with the exact posterior;
    `batch` has few rows."""
    guide = ppvae.guides.build("full_rank", story, batch, encoder=nn.Identity())
    zero, row = (
        torch.zeros(1, batch["x"].shape[1]).double(),
        torch.eye(batch["x"].shape[1]).double(),
    )
    with torch.no_grad():
        at_zero = story.posterior({"x": zero})
        slope = story.posterior({"x": row}).loc - at_zero.loc  # (P, D)
        scale = at_zero.scale_tril[0]
        raw = (scale.diagonal() - MIN_SCALE).expm1().log() - INVERSE_SOFTPLUS_OF_ONE
        rows, columns = torch.tril_indices(len(scale), len(scale), -1)
        guide.to_parameters.weight.zero_()
        guide.to_parameters.weight[: slope.shape[1]] = slope.T
        guide.to_parameters.bias.copy_(torch.cat([at_zero.loc[0], raw, scale[rows, columns]]))
    return guide


def elbo(story: nn.Module, guide: nn.Module, batch: dict[str, Tensor], beta: float = 1.0) -> Tensor:
    """E_q log p(x | z) − beta KL(q || p) of a diagonal Gaussian guide in closed form, `(B,)`, in
    nats."""
    q = guide.posterior(batch).base_dist
    noise = story.noise_scale.square()
    seen = dist.Normal(q.loc @ story.loadings.T + story.offset, story.noise_scale)
    blur = (q.scale.square() @ story.loadings.square().T / noise).sum(-1)
    kl = 0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()
    return seen.log_prob(batch["x"]).sum(-1) - 0.5 * blur - beta * kl.sum(-1)


def iwelbo(
    story: nn.Module, guide: nn.Module, batch: dict[str, Tensor], beta: float = 1.0
) -> Tensor:
    """The bound of two particles of one latent number by Gauss-Hermite quadrature, `(B,)`, in
    nats."""
    nodes, weights = map(torch.from_numpy, hermgauss(40))
    q = guide.posterior(batch).base_dist
    z = (q.loc + q.scale * math.sqrt(2) * nodes).T.unsqueeze(-1)  # (nodes, B, 1)
    log_x = dist.Normal(z @ story.loadings.T + story.offset, story.noise_scale).log_prob(batch["x"])
    log_ratio = dist.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)
    log_w = log_x.sum(-1) + beta * log_ratio.sum(-1)  # (nodes, B)
    pairs = torch.logaddexp(log_w.unsqueeze(0), log_w.unsqueeze(1)) - math.log(2)
    return torch.einsum("i,j,ijb->b", weights, weights, pairs) / math.pi
