r"""Bidirectional: a part of every layer is read from the data up, the rest from the top down."""

__all__ = ["Bidirectional", "BlocksOnPath", "up_and_down"]

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.guides.base import positive, refuse_below_one
from ppvae.guides.blocks import SequentialBlocks
from ppvae.guides.flow_guide import FlowGuide
from ppvae.guides.pushforward import start_near_zero
from ppvae.guides.structured import require_sites
from ppvae.nets import MLP
from ppvae.story import Sites


class Bidirectional(FlowGuide):
    r"""Inference up and down a hierarchy,
    :math:`q(u|x) = \prod_{i<L} N(b_i | x, b_{<i}) \, N(z_L | x, b) \,
    \prod_{i<L} N(t_i | x, b, z_L, t_{>i})`.

    The story's sites are taken for layers, the topmost first. The numbers of each site below the
    topmost are cut in two: `b` is read on the way up, given the row and what was read below, `t` on
    the way down, given all of that and the layers above. A deterministic path runs along with both:
    a vector that starts at the encoder's context, and to which every part that is drawn adds
    a term. The story itself needs no such split. Assumes
    that the numbers within a part are independent given the row and the parts before it. Other
    arguments as for `FlowGuide` and `Guide`.

    Arguments:
        share: Share of each layer's numbers that is read on the way up, rounded up to whole
            numbers; 0 is top-down, 1 bottom-up.
        path: Length of the deterministic path's vector.
        step_hidden: Hidden widths of the networks that add to it.
        context: Length of the context vector that the encoder gives.

    Raises:
        ValueError: If the story has fewer than two continuous latent sites, or an option is out of
            range.

    Source:
        L. Maaløe, M. Fraccaro, V. Liévin, O. Winther (2019). BIVA: a very deep hierarchy of latent
        variables for generative modeling.
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
        refuse_below_one(path=path, step_hidden=step_hidden)
        self._share, self._path, self._hidden = share, path, tuple(step_hidden)
        super().__init__(story, data, context=context, **options)

    def check_sites(self, sites: Sites) -> None:
        super().check_sites(sites)
        require_sites("bidirectional", sites)

    def make_transport(self, dim: int) -> nn.Module:
        blocks = up_and_down(list(self.flat.slices.values()), self._share)
        return BlocksOnPath(blocks, self._context, self._path, self._hidden)


def up_and_down(layers: Sequence[slice], share: float) -> list[slice]:
    """Parts of the layers in the order of reading: up from the lowest, the top, down again.

    Arguments:
        layers: Where each layer stands in the vector, the topmost first.
        share: Share of a layer's numbers that is read on the way up.
    """
    top, *below = layers
    cuts = [one.start + ceil(share * (one.stop - one.start)) for one in below]
    up = [slice(one.start, cut) for one, cut in zip(below, cuts, strict=True)]
    down = [slice(cut, one.stop) for one, cut in zip(below, cuts, strict=True)]
    return [part for part in (*up[::-1], top, *down) if part.stop > part.start]


class BlocksOnPath(SequentialBlocks):
    r"""Each block sees a vector to which the context and the blocks before it have added.

    Arguments:
        blocks: Where each block stands in the vector, in the order in which they are drawn.
        context: Length of the context vector.
        path: Length of the path's vector.
        hidden: Hidden widths of the networks that add to it.
    """

    def __init__(
        self, blocks: Sequence[slice], context: int, path: int, hidden: Sequence[int]
    ) -> None:
        super().__init__(blocks)
        self.begin = MLP(context, path, hidden)
        self.steps = nn.ModuleList(MLP(path + size, path, hidden) for size in self.sizes[:-1])
        self.heads = nn.ModuleList(nn.Linear(path, 2 * size) for size in self.sizes)
        for head in self.heads:
            start_near_zero(head)

    def start(self, context: Tensor) -> Tensor:
        return self.begin(context)

    def shift_and_scale(self, i: int, summary: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.heads[i](summary).chunk(2, -1)
        return shift, positive(raw)

    def extend(self, i: int, summary: Tensor, block: Tensor) -> Tensor:
        if i == len(self.steps):
            return summary
        path = summary.expand(*block.shape[:-1], -1)
        return path + self.steps[i](torch.cat([path, block], -1))
