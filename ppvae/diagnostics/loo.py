r"""Leave-one-out: how well is each row predicted by all the others, where draws come from a guide?

:math:`p(x_i | x_{-i}) = E[p(x_i | z)]` over the posterior without row i. A draw of the guide stands for it with the weight
:math:`r_i = p(x_{-i}, z) / q(z | x)`: the row's own likelihood is taken out, and what the guide is off is put right. The
weights are Pareto smoothed, and k-hat says where they are not to be trusted.

A row's own latent sites know nothing without their row, so that there :math:`r_i = p(z_i) / q(z_i | x_i)` leads from the
posterior all the way to the prior. Without global sites the rows do not touch, and leave-one-out is log p(x) of the row:
`ppvae.log_evidence` measures that far better. With global sites it is the question that a new row puts.
"""

__all__ = ["LeaveOneOut", "loo"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data import to_batch
from ppvae.data.chunks import particle_step, row_chunks
from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.rows import BAD_SHARE, GOOD_SHARE
from ppvae.estimate import Estimate
from ppvae.inference.khat import khat, khat_threshold, smooth_log_weights
from ppvae.problem.particles import log_prob_by_site, unknown_rows
from ppvae.problem.weights import check_pair, draw_all
from ppvae.story import Sites, TensorDict, num_rows_of, seeded_eval


@dataclass(frozen=True)
class LeaveOneOut:
    """What every row's own prediction is worth.

    Arguments:
        elpd: log p(x_i | x_-i), `(B,)`, in nats.
        khat: Of the weights behind it, `(B,)`.
        log_density: log E_q[p(x_i | z)], what the guide says with the row seen, `(B,)`, in nats; less `elpd` this is the
            effective number of parameters, as far as the guide is the posterior.
        num_particles: Particles behind each.
        has_global: Whether rows touch each other, through global sites.
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
        share = float((self.khat > self.threshold).double().mean())
        return "fail" if share > BAD_SHARE else "warn" if share > GOOD_SHARE else "pass"

    @property
    def finding(self) -> Finding:
        """log p(x_i | x_-i), mean over the rows."""
        share, mean = float((self.khat > self.threshold).double().mean()), self.elpd.mean()
        way_out = (
            "use a larger family, or particles"
            if self.has_global
            else "rows do not touch each other, so that log_evidence tells the same and better"
        )
        return Finding(
            "leave-one-out log p(x), nats", float(mean.value), float(mean.std_error),
            f"k-hat > {self.threshold:.2f} on <= {GOOD_SHARE:.0%} of rows", self.verdict,
            "" if self.verdict == "pass" else f"not to be trusted on {share:.0%} of the rows: {way_out}",
        )  # fmt: skip

    def __str__(self) -> str:
        return str(self.finding)


def loo(
    story: nn.Module, guide: nn.Module, data: Any, *, num_particles: int = 1000, seed: int = 0
) -> LeaveOneOut:
    """Leave-one-out log density of each row, corrected for what the guide is off.

    `ppvae.export.elpd` turns it into ArviZ's own record, for `arviz.compare` and `arviz.plot_khat`.

    Arguments:
        story: The story; its parameters stay as they are.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_particles: Draws of the guide, S.
        seed: Seed of the draws.

    Returns:
        Values and k-hat, row by row.

    Raises:
        ValueError: If there are fewer than 25 particles or two rows.

    Source:
        M. Magnusson, M. Andersen, J. Jonasson, A. Vehtari (2019). Bayesian leave-one-out cross-validation for large data.
        A. Vehtari, A. Gelman, J. Gabry (2017). Practical Bayesian model evaluation using leave-one-out
        cross-validation and WAIC.
    """
    khat_threshold(num_particles)
    batch = to_batch(story, data)
    if num_rows_of(batch) < 2:
        raise ValueError(f"expected at least two rows to leave one out, got {num_rows_of(batch)}")
    sites = check_pair(story, guide, batch)
    has_global = bool(sites.global_latent)
    # One draw of a global site belongs to all rows: they cannot be cut apart.
    pieces = [batch] if has_global else list(row_chunks(batch, guide))
    with torch.no_grad(), seeded_eval(seed, story, guide):
        parts = [_scored(story, guide, rows, sites, num_particles) for rows in pieces]
    seen, log_w = (torch.cat([part[k] for part in parts], 1).double() for k in (0, 1))
    if has_global:
        shared = parts[0][2].double()
        log_w = (shared + log_w.sum(1))[:, None].expand_as(log_w)
    return _left_out(seen, log_w - seen, has_global)


def _scored(
    story: nn.Module, guide: nn.Module, rows: TensorDict, sites: Sites, num_particles: int
) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x | z) and log w of each row, `(S, B)`, and log p - log q of the global sites, `(S,)`; in nats."""
    step = particle_step(rows, num_rows_of(rows))
    parts = []
    for start in range(0, num_particles, step):
        drawn = draw_all(story, guide, rows, min(step, num_particles - start), sites)
        log_p = log_prob_by_site(story, rows, drawn.values, sites)
        seen = [
            log_p[k] * ~unknown_rows(rows[k]) if k in drawn.values else log_p[k]
            for k in sites.observed
        ]
        local = [v for k, v in log_p.items() if k not in sites.global_latent]
        shared = [log_p[k] for k in sites.global_latent]
        log_w = torch.stack(local).sum(0) - drawn.local
        of_all = (
            torch.stack(shared).sum(0) - drawn.shared if shared else log_w.new_zeros(len(log_w))
        )
        parts.append((torch.stack(seen).sum(0), log_w, of_all))
    joined = [torch.cat(each) for each in zip(*parts, strict=True)]
    return joined[0], joined[1], joined[2]


def _left_out(seen: Tensor, log_ratio: Tensor, has_global: bool) -> LeaveOneOut:
    """Self-normalised importance sampling of p(x_i | z) under the weights `log_ratio`, both `(S, B)`."""
    num_particles = len(seen)
    weights = smooth_log_weights(log_ratio).log_softmax(0)
    value = (weights + seen).logsumexp(0)
    noise = ((seen - value).expm1() * weights.exp()).square().sum(0).sqrt()  # delta method
    return LeaveOneOut(
        elpd=Estimate(value, noise),
        khat=khat(log_ratio),
        log_density=seen.logsumexp(0) - torch.tensor(num_particles).log(),
        num_particles=num_particles,
        has_global=has_global,
    )
