r"""Blocks of a vector, one after the other: each is shifted and scaled, given those before it."""

__all__ = ["Cascade", "SequentialBlocks"]

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.guides.base import positive
from ppvae.guides.pushforward import start_near_zero
from ppvae.nets import MLP


class SequentialBlocks(nn.Module, ABC):
    r"""Noise to blocks :math:`v_i = m_i(h_{i-1}) + s_i(h_{i-1}) \epsilon_i`, from those before.

    Arguments:
        blocks: Where each block stands in the vector, in the order in which they are drawn.
    """

    order: Tensor
    back: Tensor

    def __init__(self, blocks: Sequence[slice]) -> None:
        super().__init__()
        order = torch.cat([torch.arange(block.start, block.stop) for block in blocks])
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)
        self.sizes = [block.stop - block.start for block in blocks]

    @abstractmethod
    def start(self, context: Tensor) -> Any:
        """The summary before the first block, from the context `(*, context)`."""

    @abstractmethod
    def shift_and_scale(self, i: int, summary: Any) -> tuple[Tensor, Tensor] | None:
        """Shift and scale of block `i`, `(*, size)`, given those before; None keeps the noise."""

    @abstractmethod
    def extend(self, i: int, summary: Any, block: Tensor) -> Any:
        """The summary after block `i`."""

    def forward(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """`(*, d)` and `(*, context)` to `v` `(*, d)` and log |det dv/deps| `(*,)`."""
        summary, blocks, log_det = self.start(context), [], eps.new_zeros(eps.shape[:-1])
        for i, block in enumerate(eps[..., self.order].split(self.sizes, -1)):
            affine = self.shift_and_scale(i, summary)
            if affine is not None:
                block = affine[0] + affine[1] * block
                log_det = log_det + affine[1].log().sum(-1)
            blocks.append(block)
            summary = self.extend(i, summary, block)
        return torch.cat(blocks, -1)[..., self.back], log_det

    def inverse(self, v: Tensor, context: Tensor) -> Tensor:
        """The noise that `forward` sends to `v`, `(*, d)`."""
        summary, eps = self.start(context), []
        for i, block in enumerate(v[..., self.order].split(self.sizes, -1)):
            affine = self.shift_and_scale(i, summary)
            eps.append(block if affine is None else (block - affine[0]) / affine[1])
            summary = self.extend(i, summary, block)
        return torch.cat(eps, -1)[..., self.back]


class Cascade(SequentialBlocks):
    """Each block sees all blocks before it, and the context; the first one stays as it is.

    Arguments:
        blocks: Where each block stands in the vector, in the order in which they are drawn.
        context: Length of the context vector.
        hidden: Hidden widths of each block's network.
    """

    def __init__(self, blocks: Sequence[slice], context: int, hidden: Sequence[int]) -> None:
        super().__init__(blocks)
        self.networks = nn.ModuleList(
            MLP(context + before, 2 * size, hidden)
            for before, size in zip(accumulate(self.sizes[:-1]), self.sizes[1:], strict=True)
        )
        for network in self.networks:
            layers: Any = network
            start_near_zero(layers[-1])

    def start(self, context: Tensor) -> tuple[Tensor, ...]:
        return (context,)

    def shift_and_scale(self, i: int, summary: tuple[Tensor, ...]) -> tuple[Tensor, Tensor] | None:
        if i == 0:
            return None
        shift, raw = self.networks[i - 1](torch.cat(summary, -1)).chunk(2, -1)
        return shift, positive(raw)

    def extend(self, i: int, summary: tuple[Tensor, ...], block: Tensor) -> tuple[Tensor, ...]:
        return *summary[:-1], block, summary[-1]
