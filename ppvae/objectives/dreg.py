r"""DReG: IWAE's bound with a gradient that is reparametrised twice."""

__all__ = ["DReG"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ppvae.estimate import log_mean_exp
from ppvae.objectives.base import Objective
from ppvae.problem import Problem
from ppvae.problem.draws import draw_with_frozen_density
from ppvae.story import Layout, SampleRows, TensorDict


class DReG(Objective):
    r"""IWAE's bound with an encoder gradient that is reparametrised twice,
    :math:`\sum_k \tilde w_k^2 \, \partial_z \log w_k \, \partial_\phi z_k` with
    frozen :math:`\log q`.

    The score of q in IWAE's gradient is reparametrised a second time. The story's gradient is
    IWAE's own, with weights :math:`\tilde w_k`; the encoder's no longer drowns in noise as K grows.
    With weight :math:`\beta` on the latent terms, :math:`(1 - \beta) \tilde w_k + \beta \tilde
    w_k^2` stands for :math:`\tilde w_k^2`. Arguments as for `Objective`, with one number as `beta`.

    Source:
        G. Tucker, D. Lawson, S. Gu, C. J. Maddison (2019). Doubly reparameterized gradient
        estimators for Monte Carlo objectives.
    """

    assumes = "reparametrised sites, independent particles"
    is_bound_on = "iwelbo"
    needs_paths = True
    needs_density = True
    needs_independence = True

    def __init__(self, problem: Problem, **options: Any) -> None:
        super().__init__(problem, **options)
        if isinstance(self.beta, Mapping):
            raise ValueError(
                f"expected one number as beta for DReG, got {self.beta}; iwae takes one for each "
                "site"
            )

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        self.kl_weights.warmup = kl_weight
        problem = self.problem.on(batch)
        factor = _GradientFactor()
        free, drawn = draw_with_frozen_density(
            problem, self.num_particles, share_globals=True, edit=factor.edit
        )
        drawn = self._with_global_path(free, drawn)
        scores = problem.score_draws(drawn, self.kl_weights)
        share = scores.log_weights.detach().softmax(0)
        beta = self.kl_weights.weight_of("")
        factor.value = (1 - beta) + beta * share
        return self.loss(log_mean_exp(scores.log_weights, 0), scores.log_global)

    def _with_global_path(self, free: SampleRows, frozen: SampleRows) -> SampleRows:
        """Global sites stand outside the logarithm: they keep their plain gradient."""
        for name in frozen.by_site:
            if not frozen.is_local[name]:
                frozen.by_site[name] = free.by_site[name]
                if name in free.values:
                    frozen.values[name] = free.values[name]
        return frozen


class _GradientFactor:
    """Multiplies the gradient that comes back to each draw by a number that is known only once all
    are scored.

    Attributes:
        value: Of each particle and row, `(K, B)`.
    """

    value: Tensor

    def edit(self, name: str, value: Tensor, layout: Layout, particle: int | None) -> Tensor:
        """A draw as story and frozen guide get it; a global one is a constant to the guide."""
        if layout.row_dim is None:
            return value.detach()
        seen, rows = value.clone(), value.dim() - layout.event_dim + layout.row_dim
        if seen.requires_grad:
            seen.register_hook(lambda gradient: gradient * self._beside(gradient, rows, particle))
        return seen

    def _beside(self, gradient: Tensor, rows: int, particle: int | None) -> Tensor:
        """The factor in Pyro's layout: particles lead, the rows stand at dimension `rows`."""
        shape = [1] * gradient.dim()
        shape[rows] = self.value.shape[1]
        if particle is not None:
            return self.value[particle].reshape(shape)
        shape[0] = self.value.shape[0]
        return self.value.reshape(shape)
