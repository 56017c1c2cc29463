r"""Mixture: several diagonal Gaussians, for posteriors in several pieces."""

__all__ = ["DiagonalMixture", "Mixture"]

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.pushforward import RealVector, log_standard_normal
from ppvae.story import TensorDict

INITIAL_SPREAD = 0.5


class Mixture(Guide):
    r"""Mixture of diagonal Gaussians,
    :math:`q(u|x) = \frac1K \sum_k \prod_i N(u_i; \mu_{ki}(x), \sigma_{ki}(x))`.

    Assumes that the posterior has at most K pieces, each without correlations. The weights are
    equal, and a heavy piece takes several components: the gradient of learnt weights along the path
    of the draws had ten times its own size in noise, since hardly any draw lies between pieces
    (`test_weights_learnt_along_the_path_of_parted_components_drown_in_noise`). The components start
    next to each other, spread by half a standard deviation. Other arguments as for `Guide`.

    Arguments:
        num_components: Number K of Gaussians.

    Raises:
        ValueError: If `num_components` is below 2.

    Source:
        C. M. Bishop, N. Lawrence, T. Jaakkola, M. Jordan (1998). Approximating posterior
        distributions in belief networks using mixtures.
    """

    def __init__(
        self, story: nn.Module, data: Any, *, num_components: int = 4, **options: Any
    ) -> None:
        if num_components < 2:
            raise ValueError(
                f"expected at least two components, got num_components = {num_components}; one is "
                "mean_field"
            )
        self._num_components = num_components
        super().__init__(story, data, **options)
        offsets = latin_hypercube(num_components, self.flat.dim).flatten()
        with torch.no_grad():
            bias = self.to_parameters.bias
            bias[: len(offsets)] += offsets.to(bias)

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"locs": (self._num_components, dim), "raw_scales": (self._num_components, dim)}

    def family(self, parameters: TensorDict, transport: Any) -> "DiagonalMixture":
        return DiagonalMixture(parameters["locs"], positive(parameters["raw_scales"]))


def latin_hypercube(num_components: int, dim: int) -> Tensor:
    """Where the components start, `(K, d)`: a Latin hypercube, the same each time."""
    generator = torch.Generator().manual_seed(0)
    levels = INITIAL_SPREAD * torch.linspace(-1, 1, num_components)
    columns = [levels[torch.randperm(num_components, generator=generator)] for _ in range(dim)]
    return torch.stack(columns, -1)


class DiagonalMixture(RealVector):
    r"""Equally weighted diagonal Gaussians; draws carry the gradient of their component.

    Particles drawn for a gradient are stratified: each is marginally from the mixture, and together
    they visit the components evenly. Particles drawn without gradients are independent, as standard
    errors and diagnostics assume.

    Arguments:
        locs: `(B, K, d)`.
        scales: `(B, K, d)`, positive.
    """

    is_stratified = True  # particles drawn together for a gradient

    def __init__(self, locs: Tensor, scales: Tensor) -> None:
        self.locs, self.scales = locs, scales
        super().__init__(locs.shape[:-2], locs.shape[-1])

    @property
    def mean(self) -> Tensor:
        return self.locs.mean(-2).expand(*self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        eps = (value.unsqueeze(-2) - self.locs) / self.scales  # (*, B, K, d)
        log_each = log_standard_normal(eps) - self.scales.log().sum(-1)
        return log_each.logsumexp(-1) - math.log(self.locs.shape[-2])

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = Size([*sample_shape, *self.batch_shape])
        which = self._components(shape, torch.is_grad_enabled())[..., None, None]
        which = which.expand(*shape, 1, *self.event_shape)
        lead = Size([*shape, *self.locs.shape[-2:]])
        loc, scale = (
            t.expand(lead).gather(-2, which).squeeze(-2) for t in (self.locs, self.scales)
        )
        return loc + scale * torch.randn_like(loc)

    def _components(self, shape: Size, stratified: bool) -> Tensor:
        """The component of each particle, `shape`; stratified, each gets as many of a row."""
        num_components, num_rows = self.locs.shape[-2], self.locs.shape[:-2].numel()
        uniform = torch.rand(shape, dtype=self.locs.dtype, device=self.locs.device)
        if stratified:
            particles = uniform.reshape(-1, num_rows)
            strata = torch.rand_like(particles).argsort(0)
            uniform = ((strata + particles) / len(particles)).reshape(shape)
        return (uniform * num_components).long().clamp(max=num_components - 1)
