r"""Can a guide of independent Gaussians hold correlations, if it may draw numbers of its own first?

Auxiliary variables: q(z|x) = ∫ q(z|v, x) q(v|x) dv has no density to write down, but with a reverse
model r(v|x, z) E[log p(x, z) + log r(v|x, z) − log q(z, v|x)] is a bound on log p(x), low by E
KL(q(v|x, z) || r) beside KL(q(z|x) || p). The story is factor analysis, whose posterior is a
correlated Gaussian: without v the guide is low by ½(Σ log Λ_ii − log det Λ), with v by nothing. All
networks here are linear.

Source: R. Ranganath, D. Tran, D. M. Blei (2016). Hierarchical variational models. L. Maaløe, C. K.
Sønderby, S. K. Sønderby, O. Winther (2016). Auxiliary deep generative models.
"""

import torch
from torch import nn

import ppvae

SEED, ROWS, EPOCHS, PARTICLES = 0, 500, 200, 500
DATA_DIM, LATENT_DIM = 6, 2


def main(epochs: int = EPOCHS) -> dict[str, dict[str, ppvae.Estimate]]:
    """What a Gaussian and the auxiliary guide fall short of the exact log p(x), means over the
    rows, in nats per row."""
    torch.manual_seed(SEED)
    story = ppvae.stories.load(
        "factor_analysis", {"x": torch.zeros(2, DATA_DIM)}, latent_dim=LATENT_DIM
    )
    with torch.no_grad():
        story.loadings.mul_(0.3).add_(1.0)  # strong correlations
    rows = {"x": ppvae.simulate(story, ROWS)["x"]}
    guides = {
        "mean_field": ppvae.guides.build("mean_field", story, rows, encoder=nn.Identity()),
        "auxiliary": ppvae.guides.build(
            "auxiliary", story, rows, encoder=nn.Identity(), num_layers=1, flow_hidden=()
        ),
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
        f"factor analysis, {DATA_DIM} numbers, {ROWS} rows, seed {SEED}: log p(x) − bound, nats "
        "per row"
    )
    for name, bounds in main().items():
        print(f"{name:<12}", *(f"{k}: {v}" for k, v in bounds.items()), sep="   ")
