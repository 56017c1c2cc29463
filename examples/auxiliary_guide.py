r"""Can a guide of independent Gaussians hold correlations, if it may draw numbers of its own first?

Auxiliary variables: q(z|x) = ∫ q(z|v, x) q(v|x) dv has no density to write down, but with a reverse model r(v|x, z)
E[log p(x, z) + log r(v|x, z) − log q(z, v|x)] is a bound on log p(x), low by E KL(q(v|x, z) || r) beside KL(q(z|x) || p). The
story is factor analysis, whose posterior is a correlated Gaussian: without v the guide is low by ½(Σ log Λ_ii − log det Λ), with v
by nothing. The guide is a plain Pyro program: the site `v` is marked auxiliary and −log r is a factor.

Source: R. Ranganath, D. Tran, D. M. Blei (2016). Hierarchical variational models. L. Maaløe, C. K. Sønderby, S. K. Sønderby,
O. Winther (2016). Auxiliary deep generative models.
"""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import ppvae
from ppvae.gallery import load_story
from ppvae.nets import MLP
from ppvae.story import TensorDict, seeded

SEED, ROWS, EPOCHS, PARTICLES = 0, 500, 200, 500
DATA_DIM, LATENT_DIM = 6, 2


class Auxiliary(PyroModule):
    """Gaussians for v given x, for z given x and v, and, in reverse, for v given x and z.

    Arguments:
        data_dim: Numbers of a row.
        latent_dim: Numbers of z.
        auxiliary_dim: Numbers of v.
    """

    def __init__(self, data_dim: int, latent_dim: int, auxiliary_dim: int) -> None:
        super().__init__(name="auxiliary")
        self.v_given_x = MLP(data_dim, 2 * auxiliary_dim, ())
        self.z_given_v = MLP(data_dim + auxiliary_dim, 2 * latent_dim, ())
        self.v_given_z = MLP(data_dim + latent_dim, 2 * auxiliary_dim, ())

    def forward(self, batch: TensorDict) -> None:
        x = batch["x"]
        with pyro.plate("data", len(x)):
            v = pyro.sample("v", normal(self.v_given_x, x), infer={"is_auxiliary": True})
            z = pyro.sample("z", normal(self.z_given_v, x, v))
            log_r = normal(self.v_given_z, x, z).log_prob(v)
            pyro.factor("r", -log_r, has_rsample=True)


def normal(network: nn.Module, x: Tensor, given: Tensor | None = None) -> dist.Distribution:
    """Independent Normals from `(B, P)` and `(*, B, D)`: a draw comes with particles in front, the row without."""
    seen = x if given is None else torch.cat([x.expand(*given.shape[:-1], -1), given], -1)
    loc, raw = network(seen).chunk(2, -1)
    return dist.Normal(loc, nn.functional.softplus(raw) + 1e-4).to_event(1)


def main(epochs: int = EPOCHS) -> dict[str, dict[str, ppvae.Estimate]]:
    """What a Gaussian and the auxiliary guide fall short of the exact log p(x), means over the rows, in nats per row."""
    with seeded(SEED):
        story = load_story(
            "factor_analysis", {"x": torch.zeros(2, DATA_DIM)}, latent_dim=LATENT_DIM
        )
        with torch.no_grad():
            story.loadings.mul_(0.3).add_(1.0)  # strong correlations
        rows = {"x": ppvae.simulate(story, ROWS)["x"]}
        guides = {
            "mean_field": ppvae.guides.build("mean_field", story, rows, encoder=nn.Identity()),
            "auxiliary": Auxiliary(DATA_DIM, LATENT_DIM, LATENT_DIM),
        }
    story.requires_grad_(False)
    log_p = ppvae.log_evidence(story, rows, method="exact")
    found = {}
    for name, guide in guides.items():
        ppvae.fit(
            story, guide, rows, epochs=epochs, lr=2e-2, num_particles=8, seed=SEED, progress=False
        )
        bounds = {
            "1 particle": ppvae.elbo(story, guide, rows, num_particles=PARTICLES, seed=SEED),
            "50 particles": ppvae.iwelbo(story, guide, rows, num_particles=50, seed=SEED),
        }
        found[name] = {k: (log_p - bound).mean() for k, bound in bounds.items()}
    return found


if __name__ == "__main__":
    print(
        f"factor analysis, {DATA_DIM} numbers, {ROWS} rows, seed {SEED}: log p(x) − bound, nats per row"
    )
    for name, bounds in main().items():
        print(f"{name:<12}", *(f"{k}: {v}" for k, v in bounds.items()), sep="   ")
