r"""Leave-one-out: how well is each row predicted by all the others, where draws come from a guide?

:math:`p(x_i | x_{-i}) = E[p(x_i | z)]` over the posterior without row i. A draw of the guide stands
for it with the weight
:math:`r_i = p(x_{-i}, z) / q(z | x)`: the row's own likelihood is taken out, and what the guide is
off is put right. The weights are Pareto smoothed, and k-hat says where they are not to be trusted.

A row's own latent sites know nothing without their row, so that there :math:`r_i = p(z_i) / q(z_i |
x_i)` leads from the posterior all the way to the prior. Without global sites rows are independent,
and leave-one-out is log p(x) of the row: `ppvae.log_evidence` measures that far better. With global
sites it is the question that a new row puts.
"""

__all__ = ["LeaveOneOut", "loo"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.finding import GOOD_SHARE, Finding, Verdict, khat_verdict, share_above
from ppvae.diagnostics.requirements import Pair, as_problem
from ppvae.diagnostics.scored_draws import ScoredDraws, cat_nested, score_draws
from ppvae.estimate import Estimate
from ppvae.inference.khat import khat, khat_threshold, smooth_log_weights
from ppvae.result import Result


@dataclass(frozen=True)
class LeaveOneOut(Result):
    """What every row's own prediction is worth.

    Arguments:
        elpd: log p(x_i | x_-i), `(B,)`, in nats.
        khat: Of the weights behind it, `(B,)`.
        log_density: log E_q[p(x_i | z)], what the guide says with the row seen, `(B,)`, in nats;
            less `elpd` this is the effective number of parameters, as far as the guide is the
            posterior.
        num_particles: Particles behind each.
        has_global: Whether rows depend on each other, through global sites.
    """

    elpd: Estimate
    khat: Tensor
    log_density: Tensor
    num_particles: int
    has_global: bool

    @property
    def threshold(self) -> float:
        """k-hat above which a row's value is not to be trusted."""
        return khat_threshold(self.num_particles)

    @property
    def num_parameters(self) -> float:
        """The effective number of parameters, over all rows."""
        return float((self.log_density - self.elpd.value).sum())

    @property
    def verdict(self) -> Verdict:
        """`fail` if more than 20 % of the rows are not to be trusted, `warn` above 5 %."""
        return khat_verdict(self.khat, self.threshold)

    @property
    def findings(self) -> tuple[Finding]:
        """log p(x_i | x_-i), mean over the rows."""
        remedy = (
            "rows are independent of each other, so that log_evidence tells the same and better"
        )
        if self.has_global:
            remedy = "use a larger family, or more particles"
        share = share_above(self.khat, self.threshold)
        advice = f"not to be trusted on {float(share.value):.0%} of the rows: {remedy}"
        bar = f"k-hat > {self.threshold:.2f} on <= {GOOD_SHARE:.0%} of rows"
        name = "leave-one-out log p(x), nats"
        return (Finding.of(name, self.elpd.mean(), bar, self.verdict, advice),)


def loo(
    story: Pair,
    guide: nn.Module | None = None,
    data: Any = None,
    *,
    num_particles: int = 1000,
    seed: int = 0,
) -> LeaveOneOut:
    """Leave-one-out log density of each row, corrected for what the guide is off.

    `ppvae.export.elpd` turns it into ArviZ's own record, for `arviz.compare` and `arviz.plot_khat`.

    Arguments:
        story: The story; or a `Problem` of story, guide and rows, with nothing for the two next.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: Draws of the guide, S.
        seed: Seed of the draws.

    Returns:
        Values and k-hat, row by row.

    Raises:
        ValueError: If there are fewer than 25 particles or two rows.

    Source:
        M. Magnusson, M. Andersen, J. Jonasson, A. Vehtari (2019). Bayesian leave-one-out
        cross-validation for large data.
        A. Vehtari, A. Gelman, J. Gabry (2017). Practical Bayesian model evaluation using
        leave-one-out cross-validation and WAIC.
    """
    khat_threshold(num_particles)
    problem = as_problem(story, guide, data)
    if problem.num_rows < 2:
        raise ValueError(f"expected at least two rows to leave one out, got {problem.num_rows}")
    has_global = bool(problem.sites.global_latent)
    # One draw of a global site belongs to all rows: they are not cut into pieces.
    step = problem.num_rows if has_global else None
    with torch.no_grad(), problem.eval_mode(seed):
        parts = [_scores(score_draws(piece, num_particles)) for piece in problem.pieces(step)]
    scores = cat_nested(parts, dim=1)
    log_likelihood, log_w = scores["log_likelihood"], scores["log_w"]
    if has_global:
        log_w = (scores["log_w_global"] + log_w.sum(1))[:, None].expand_as(log_w)
    return _leave_one_out(log_likelihood, log_w - log_likelihood, has_global)


def _scores(draws: ScoredDraws) -> dict[str, Tensor]:
    """log p(x | z) and log w of each row, `(S, B)`, and log p − log q of the global sites,
    `(S,)`; in nats."""
    return {
        "log_likelihood": draws.total_log_likelihood.double(),
        "log_w": draws.log_weights.double(),
        "log_w_global": (draws.log_joint_global - draws.log_guide_global).double(),
    }


def _leave_one_out(log_likelihood: Tensor, log_ratio: Tensor, has_global: bool) -> LeaveOneOut:
    """Self-normalised estimate of p(x_i | x_-i) with weights `log_ratio`, all `(S, B)`."""
    num_particles = len(log_likelihood)
    weights = smooth_log_weights(log_ratio).log_softmax(0)
    value = (weights + log_likelihood).logsumexp(0)
    noise = (
        ((log_likelihood - value).expm1() * weights.exp()).square().sum(0).sqrt()
    )  # delta method
    return LeaveOneOut(
        elpd=Estimate(value, noise),
        khat=khat(log_ratio),
        log_density=log_likelihood.logsumexp(0) - torch.tensor(num_particles).log(),
        num_particles=num_particles,
        has_global=has_global,
    )
