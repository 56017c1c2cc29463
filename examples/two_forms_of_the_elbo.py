r"""Are the two forms of the ELBO the same, and is what they miss the KL divergence from the
posterior?

On factor analysis, where all is known: E[log p(x, z) − log q(z|x)] beside E[log p(x|z)] − KL(q ||
p), and log p(x) beside ELBO + KL(q || posterior). The noise of one draw tells the forms apart.
"""

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

import ppvae

TensorDict = dict[str, Tensor]
SEED, ROWS, PARTICLES, EPOCHS = 0, 200, 4000, 20


def pair() -> tuple[nn.Module, nn.Module, TensorDict]:
    """Factor analysis in float64 with a mean-field guide trained on its own rows."""
    torch.manual_seed(SEED)
    story = ppvae.stories.load("factor_analysis", {"x": torch.zeros(2, 10)}).double()
    rows = {"x": ppvae.simulate(story, ROWS)["x"]}
    guide = ppvae.guides.build("mean_field", story, rows)
    story.requires_grad_(False)
    ppvae.fit(story, guide, rows, epochs=EPOCHS, batch_size=20, seed=SEED, progress=False)
    return story, guide, rows


def forms(
    story: nn.Module, guide: nn.Module, rows: TensorDict, particles: int
) -> tuple[Tensor, Tensor]:
    """Both forms of each particle and row, `(S, B)`, from the same draws, in nats."""
    problem = ppvae.Problem.of(story, guide, rows)
    with torch.no_grad(), problem.eval_mode(SEED):
        scores = problem.score(particles)
        q = guide.posterior(rows)
        prior = torch.distributions.Normal(torch.zeros_like(q.mean), 1.0)
        log_prior = prior.log_prob(scores.latents["z"]).sum(-1)
        analytic = kl_divergence(q.base_dist, prior).sum(-1)
    return scores.log_weights, (scores.log_joint - log_prior) - analytic


def main(particles: int = PARTICLES) -> dict[str, ppvae.Estimate]:
    """The quantities, means over the rows; errors are those of the draws alone, in nats per row."""
    story, guide, rows = pair()
    sampled, analytic = forms(story, guide, rows, particles)
    with torch.no_grad():
        missed = kl_divergence(
            torch.distributions.MultivariateNormal(
                guide.posterior(rows).mean, torch.diag_embed(guide.posterior(rows).variance)
            ),
            story.posterior(rows),
        )
        log_p = story.log_evidence(rows)
    of_rows = ppvae.Estimate.of_draws
    return {
        "E[log p(x,z) - log q(z|x)]": of_rows(sampled.mean(1)),
        "E[log p(x|z)] - KL(q || p)": of_rows(analytic.mean(1)),
        "difference of the two": of_rows((sampled - analytic).mean(1)),
        "KL(q || p(z|x)), exact": ppvae.Estimate.exact(missed.mean()),
        "ELBO + KL(q || p(z|x))": of_rows(analytic.mean(1) + missed.mean()),
        "log p(x), exact": ppvae.Estimate.exact(log_p.mean()),
        "noise of one draw, first form": ppvae.Estimate.exact(sampled.std(0).mean()),
        "noise of one draw, second form": ppvae.Estimate.exact(analytic.std(0).mean()),
    }


if __name__ == "__main__":
    print(f"factor analysis, {ROWS} rows, {PARTICLES} draws, seed {SEED}, nats per row")
    for name, found in main().items():
        print(f"{name:<32}{float(found.value):9.4f}  ± {float(found.std_error):.4f}")
