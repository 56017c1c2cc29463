r"""Bidirectional: a part of every layer is read from the data up, the rest from the top down."""

__all__ = ["Bidirectional", "TwoWay"]

from collections.abc import Mapping, Sequence
from math import ceil
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


class Bidirectional(Guide):
    r"""Inference up and down a hierarchy,
    :math:`q(u|x) = \prod_{i=1}^{L-1} N(b_i | x, b_{<i}) \; N(z_L | x, b) \prod_{i=L-1}^{1} N(t_i | x, b, t_{>i}, z_L)`.

    The story's sites are taken for layers, the topmost first. The numbers of each site below the topmost are cut in two: `b` is read on the way
    up, given the row and what was read below, `t` on the way down, given all of that and the layers above. A deterministic path
    runs along with both: a vector that starts at the encoder's context, and to which every part that is drawn adds what it says. The
    story needs no split of its own: how a layer is read is the guide's matter. Assumes that the numbers within a part are independent given the
    row and the parts before it. Other arguments as for `Guide`.

    Arguments:
        share: Share of each layer's numbers that is read on the way up, rounded up to whole numbers; 0 is top-down, 1 bottom-up.
        path: Length of the deterministic path's vector.
        step_hidden: Hidden widths of the networks that add to it.
        context: Length of the context vector that the encoder gives.

    Raises:
        ValueError: If the story has fewer than two continuous latent sites, or an option is out of range.

    Source:
        L. Maaløe, M. Fraccaro, V. Liévin, O. Winther (2019). BIVA: a very deep hierarchy of latent variables for generative modeling.
    """

    def __init__(
        self,
        story: nn.Module,
        data: Any,
        *,
        share: float = 0.5,
        path: int = 64,
        step_hidden: Sequence[int] = (64,),
        context: int = 32,
        **options: Any,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"expected a share between 0 and 1 for bidirectional, got {share}")
        if min(path, context, *step_hidden) < 1:
            raise ValueError(
                f"expected path, context and step_hidden of at least 1, got {path}, {context} and {tuple(step_hidden)}"
            )
        self._options = (share, path, tuple(step_hidden), context)
        super().__init__(story, data, **options)

    def check_sites(self, sites: Sites) -> None:
        super().check_sites(sites)
        if len(sites.local_continuous) < 2:
            raise ValueError(
                "expected at least two continuous latent sites for bidirectional, got "
                f"{sorted(sites.local_continuous)}; with one it is mean_field, and a flow (iaf, nsf) bends its numbers"
            )

    def parameter_shapes(self, dim: int) -> Mapping[str, tuple[int, ...]]:
        return {"loc": (dim,), "raw_scale": (dim,), "context": (self._options[3],)}

    def make_transport(self, dim: int) -> nn.Module:
        share, path, hidden, context = self._options
        return TwoWay(there_and_back(list(self.flat.slices.values()), share), context, path, hidden)

    def family(self, parameters: TensorDict, transport: Any) -> Distribution:
        scale = positive(parameters["raw_scale"])
        return Pushforward(parameters["loc"], scale, squashed(parameters["context"]), transport)


def there_and_back(layers: Sequence[slice], share: float) -> list[slice]:
    """The parts of the layers in the order in which they are read: up from the lowest, the top, and down again.

    Arguments:
        layers: Where each layer stands in the vector, the topmost first.
        share: Share of a layer's numbers that is read on the way up.
    """
    top, *below = layers
    cuts = [one.start + ceil(share * (one.stop - one.start)) for one in below]
    up = [slice(one.start, cut) for one, cut in zip(below, cuts, strict=True)]
    down = [slice(cut, one.stop) for one, cut in zip(below, cuts, strict=True)]
    return [part for part in (*up[::-1], top, *down) if part.stop > part.start]


class TwoWay(nn.Module):
    r"""Parts of a vector, each shifted and scaled by a path that remembers the parts before it.

    Arguments:
        parts: Where each part stands in the vector, in the order in which they are drawn.
        context: Length of the context vector.
        path: Length of the path's vector.
        hidden: Hidden widths of the networks that add to it.
    """

    order: Tensor
    back: Tensor

    def __init__(
        self, parts: Sequence[slice], context: int, path: int, hidden: Sequence[int]
    ) -> None:
        super().__init__()
        order = torch.cat([torch.arange(part.start, part.stop) for part in parts])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        self.sizes = [part.stop - part.start for part in parts]
        self.begin = MLP(context, path, hidden)
        self.steps = nn.ModuleList(MLP(path + size, path, hidden) for size in self.sizes[:-1])
        self.heads = nn.ModuleList(nn.Linear(path, 2 * size) for size in self.sizes)
        heads: Any = self.heads
        for head in heads:  # start next to the identity: the guide begins as mean-field
            with torch.no_grad():
                head.weight.mul_(NEXT_TO_IDENTITY)
                head.bias.zero_()

    def forward(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, d)` and `(*, context)` to `v` `(*, d)` and log |det dv/deps| `(*,)`."""
        path, drawn, log_det = self.begin(context), [], eps.new_zeros(eps.shape[:-1])
        for i, part in enumerate(eps[..., self.order].split(self.sizes, -1)):
            shift, scale = self._law(i, path)
            drawn.append(shift + scale * part)
            log_det = log_det + scale.log().sum(-1)
            path = self._onwards(i, path, drawn[-1])
        return torch.cat(drawn, -1)[..., self.back], log_det

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """The noise that `forward` sends to `v`, `(*, d)`."""
        path, eps = self.begin(context), []
        for i, part in enumerate(v[..., self.order].split(self.sizes, -1)):
            shift, scale = self._law(i, path)
            eps.append((part - shift) / scale)
            path = self._onwards(i, path, part)
        return torch.cat(eps, -1)[..., self.back]

    def _law(self, i: int, path: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale of a part, given all that the path remembers."""
        shift, raw = self.heads[i](path).chunk(2, -1)
        return shift, positive(raw)

    def _onwards(self, i: int, path: Tensor, part: Tensor) -> Tensor:
        """The path after a part is drawn: what was there, and what the part adds."""
        if i == len(self.steps):
            return path
        return path + self.steps[i](torch.cat([path.expand(*part.shape[:-1], -1), part], -1))
