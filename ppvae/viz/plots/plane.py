r"""A plane of two latent numbers: its stops, and a sheet of the images that stand at them."""

__all__ = ["image_plane", "plane"]

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .images import colour_images
from .style import to_numpy


def plane(steps: int = 15, share: float = 0.98) -> Tensor:
    r"""Stops of a walk over two standard normal numbers, at equal steps of probability.

    Arguments:
        steps: Stops a side.
        share: Probability, of each number, between the outermost stops.

    Returns:
        Stops in reading order, the first number growing to the right and the second upwards, with shape
        :math:`(\text{steps}^2, 2)`; feed them to `ppvae.traverse`.

    Raises:
        ValueError: If there are fewer than two steps, or the share is not between 0 and 1.
    """
    if steps < 2 or not 0 < share < 1:
        raise ValueError(
            f"expected at least 2 steps and a share in (0, 1); got {steps} and {share}."
        )
    chance = torch.linspace((1 - share) / 2, (1 + share) / 2, steps)
    values = torch.distributions.Normal(0.0, 1.0).icdf(chance)
    up, right = torch.meshgrid(values.flip(0), values, indexing="ij")
    return torch.stack([right.flatten(), up.flatten()], -1)


def image_plane(images: Tensor, shape: tuple[int, ...] | None = None, title: str = "") -> Figure:
    r"""One sheet of images, as many down as across, in reading order.

    Arguments:
        images: Values in [0, 1], :math:`(n^2, D)`, :math:`(n^2, H, W)` or :math:`(n^2, C, H, W)`, C = 1 or 3.
        shape: :math:`(H, W)` or :math:`(C, H, W)` of one image; needed for vectors that are not square.
        title: Heading of the figure.

    Returns:
        One axis with the sheet.

    Raises:
        ValueError: If their number is no square, or as in `image_grid`.
    """
    tiles = colour_images("plane", to_numpy(images), shape)
    side = math.isqrt(len(tiles))
    if side**2 != len(tiles):
        raise ValueError(f"expected a square number of images; got {len(tiles)}.")
    _, height, width, _ = tiles.shape
    rows = tiles.reshape(side, side, height, width, 3).swapaxes(1, 2)
    sheet = rows.reshape(side * height, side * width, 3)
    inches = 7.0
    figure = Figure(figsize=(inches, inches * height / width), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.nan_to_num(sheet), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.suptitle(title)
    return figure
