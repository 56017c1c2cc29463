r"""Concrete: discrete sites drawn in training from a relaxation that lets gradients through."""

__all__ = ["Concrete", "RelaxedBernoulli", "RelaxedOneHot"]

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Size, Tensor, nn
from torch.nn.functional import gumbel_softmax

from ppvae.guides.categorical import DiscreteGuide
from ppvae.guides.discrete import DiscreteSampler, plain_site_distribution
from ppvae.story import Batch, LinearBernoulli, LinearOneHot, Site, Sites


class Concrete(DiscreteGuide):
    r"""As `Categorical`, with draws relaxed while it is trained,
    :math:`y = \mathrm{softmax}((\log\pi + G) / \tau)`.

    :math:`G` is Gumbel noise. Gradients then pass through the draws: of low variance, and biased,
    the less the lower the temperature. In evaluation mode draws are whole, so that every reported
    ELBO is that of the discrete story. The story must take values between the corners: its discrete
    sites are `OneHotCategorical` or `Bernoulli`. Other arguments as for `Guide`.

    Arguments:
        temperature: :math:`\tau` at the first training step.
        final_temperature: Lowest :math:`\tau`.
        cooling: Share of :math:`\tau` lost in each training step.
        straight_through: Whether the story sees whole draws, rounded, with the gradient of the
            relaxed ones.

    Raises:
        ValueError: If a discrete site is neither one-hot nor a coin, there is none, or an option is
            out of range.

    Source:
        C. J. Maddison, A. Mnih, Y. W. Teh (2017). The Concrete distribution: a continuous
        relaxation of discrete random variables.
        E. Jang, S. Gu, B. Poole (2017). Categorical reparameterization with Gumbel-softmax.
    """

    adds_to_loss = True
    step: Tensor

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        temperature: float = 1.0,
        final_temperature: float = 0.5,
        cooling: float = 1e-4,
        straight_through: bool = False,
        **options: Any,
    ) -> None:
        if not 0 < final_temperature <= temperature or not 0 <= cooling < 1:
            raise ValueError(
                "expected 0 < final_temperature <= temperature and 0 <= cooling < 1, got "
                f"{final_temperature}, {temperature} and {cooling}"
            )
        super().__init__(story, data, **options)
        self.temperatures = (temperature, final_temperature)  # the first and the lowest
        self.cooling, self.straight_through = cooling, straight_through
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @property
    def temperature(self) -> float:
        """The temperature now."""
        return float(self._cooled())

    def _cooled(self) -> Tensor:
        """The temperature now, `()`, on the device, where a training step need not wait for it."""
        first, lowest = self.temperatures
        return (first * (1 - self.cooling) ** self.step).clamp(min=lowest)

    def make_discrete(self, sites: Sites) -> DiscreteSampler:
        sampler = super().make_discrete(sites)
        for name, site in sites.items():
            plain = plain_site_distribution(site, torch.zeros(sampler.shapes[name]))
            if not isinstance(plain, dist.OneHotCategorical | dist.Bernoulli):
                raise ValueError(
                    f"site '{name}': expected OneHotCategorical or Bernoulli for concrete, whose "
                    f"draws lie between the corners in training, got the support {site.support}; "
                    "draw a OneHotCategorical, or use categorical"
                )
        return sampler

    def forward(self, batch: Batch) -> None:
        super().forward(batch)
        if self._relaxes():
            self.step += 1

    def site_distribution(self, site: Site, logits: Tensor) -> Distribution:
        plain = plain_site_distribution(site, logits)
        if not self._relaxes():
            return plain
        relaxed = RelaxedBernoulli if isinstance(plain, dist.Bernoulli) else RelaxedOneHot
        return relaxed(logits, self._cooled(), self.straight_through)

    def _relaxes(self) -> bool:
        return self.training and torch.is_grad_enabled()


class RelaxedOneHot(LinearOneHot):
    """A one-hot categorical with relaxed, differentiable draws.

    Arguments:
        logits: `(*, K)`.
        temperature: Above 0; the lower, the nearer the draws are to the corners.
        straight_through: Whether draws are rounded to the corner, with the gradient of the relaxed
            ones.
    """

    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float | Tensor, straight_through: bool) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.temperature: Any = temperature
        self.straight_through = straight_through

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RelaxedOneHot":
        logits = self.logits.expand(Size([*batch_shape, self.logits.shape[-1]]))
        return RelaxedOneHot(logits, self.temperature, self.straight_through)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        logits = self.logits.expand(Size([*sample_shape, *self.logits.shape]))
        return gumbel_softmax(logits, self.temperature, hard=self.straight_through)


class RelaxedBernoulli(LinearBernoulli):
    """A coin with relaxed, differentiable draws; arguments as for `RelaxedOneHot`."""

    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float | Tensor, straight_through: bool) -> None:
        super().__init__(logits)
        self.temperature: Any = temperature
        self.straight_through = straight_through

    def expand(self, batch_shape: Any, _instance: Any = None) -> "RelaxedBernoulli":
        logits = self.logits.expand(Size(batch_shape))
        return RelaxedBernoulli(logits, self.temperature, self.straight_through)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        logits = self.logits.expand(Size([*sample_shape, *self.logits.shape]))
        both_sides = torch.stack([logits, torch.zeros_like(logits)], -1)
        return gumbel_softmax(both_sides, self.temperature, hard=self.straight_through)[..., 0]
