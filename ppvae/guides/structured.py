r"""Structured: every site conditioned on the row and on the sites before it."""

__all__ = ["Cascade", "Structured"]

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from ppvae.guides.amortized import Guide
from ppvae.guides.base import positive
from ppvae.guides.flow_guide import squashed
from ppvae.guides.flows import NEXT_TO_IDENTITY, Pushforward
from ppvae.nets import MLP
from ppvae.story import Sites, TensorDict

ORDERS = ("story", "reverse")


class Structured(Guide):
    r"""Gaussians site after site, each given the row and those before, :math:`q(u|x) = \prod_i N(u_i; \mu_i(x, u_{<i}), \sigma_i(x, u_{<i}))`.

    Assumes that the numbers within a site are independent given the row and the sites before it; between sites any
    dependence of location and scale goes. Other arguments as for `Guide`.

    Arguments:
        order: `story` (causes first, as the program draws them: top-down) or `reverse` (from the data up).
        site_hidden: Hidden widths of each site's network.
        context: Length of the context vector that the encoder gives these networks.

    Raises:
        ValueError: If the story has fewer than two continuous latent sites, or an option is unknown.

    Source:
        M. Webb et al. (2018). Faithful inversion of generative models for effective amortized inference.
    """

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        order: str = "story",
        site_hidden: Sequence[int] = (64,),
        context: int = 16,
        **options: Any,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f"expected order among {', '.join(ORDERS)}; got '{order}'")
        self._options = (order, tuple(site_hidden), context)
        super().__init__(story, data, **options)

    def check_sites(self, sites: Sites) -> None:
        super().check_sites(sites)
        if len(sites.local_continuous) < 2:
            raise ValueError(
                "expected at least two continuous latent sites for structured, got "
                f"{sorted(sites.local_continuous)}; with one it is mean_field, and a flow (iaf, nsf) bends its numbers"
            )

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,), "context": (self._options[2],)}

    def make_transport(self, dim: int) -> nn.Module:
        order, hidden, context = self._options
        parts = list(self.flat.slices.values())
        return Cascade(parts if order == "story" else parts[::-1], context, hidden)

    def family(self, parameters: TensorDict, transport: Any) -> Distribution:
        scale = positive(parameters["raw_scale"])
        return Pushforward(parameters["loc"], scale, squashed(parameters["context"]), transport)


class Cascade(nn.Module):
    r"""Blocks of numbers, each shifted and scaled by the blocks before it.

    Arguments:
        parts: Where each block stands in the vector, in the order in which they are drawn.
        context: Length of the context vector.
        hidden: Hidden widths of each block's network.
    """

    order: Tensor
    back: Tensor

    def __init__(self, parts: Sequence[slice], context: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [part.stop - part.start for part in parts]
        order = torch.cat([torch.arange(part.start, part.stop) for part in parts])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        self.sizes = sizes
        self.networks = nn.ModuleList(
            MLP(context + before, 2 * size, hidden)
            for before, size in zip(accumulate(sizes[:-1]), sizes[1:], strict=True)
        )
        for network in self.networks:  # start next to the identity: the guide begins as mean-field
            last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
            with torch.no_grad():
                last.weight.mul_(NEXT_TO_IDENTITY)
                last.bias.zero_()

    def forward(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, d)` and `(*, context)` to `v` `(*, d)` and log |det dv/deps| `(*,)`."""
        first, *rest = eps[..., self.order].split(self.sizes, -1)
        done, log_det = first, eps.new_zeros(eps.shape[:-1])
        for network, block in zip(self.networks, rest, strict=True):
            shift, scale = self._conditional(network, done, context)
            done = torch.cat([done, shift + scale * block], -1)
            log_det = log_det + scale.log().sum(-1)
        return done[..., self.back], log_det

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """The noise that `forward` sends to `v`, `(*, d)`."""
        blocks = v[..., self.order].split(self.sizes, -1)
        eps = [blocks[0]]
        for i, network in enumerate(self.networks):
            shift, scale = self._conditional(network, torch.cat(blocks[: i + 1], -1), context)
            eps.append((blocks[i + 1] - shift) / scale)
        return torch.cat(eps, -1)[..., self.back]

    def _conditional(
        self, network: nn.Module, before: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shift and scale of a block, given those before it."""
        shift, raw = network(torch.cat([before, context], -1)).chunk(2, -1)
        return shift, positive(raw)
