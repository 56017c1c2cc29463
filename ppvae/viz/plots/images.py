r"""Images: labelled rows of them, and a square sheet of those at the points of a plane."""

__all__ = ["image_grid", "image_plane", "picture_shape", "plane"]

import math
from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from .style import BLUE, to_numpy

MIN_SIDE = 4  # a vector of 9 numbers is hardly a picture


def image_grid(
    rows: Mapping[str, Tensor], shape: tuple[int, ...] | None = None, title: str = ""
) -> Figure:
    r"""Labelled rows of images, such as data above the reconstructions of each guide.

    Arguments:
        rows: Label to images with values in [0, 1], with shape :math:`(n, D)`, :math:`(n, H, W)` or
            :math:`(n, C, H, W)`, C = 1 or 3. NaN is a missing pixel and drawn in blue.
        shape: :math:`(H, W)` or :math:`(C, H, W)` of one image; needed for vectors that are not
            square.
        title: Heading of the figure.

    Returns:
        One axis per label that holds its images side by side, one white pixel apart.

    Raises:
        ValueError: If there is no row or image, the shape is unknown or does not fit, the sizes
            differ between rows, or a value lies outside [0, 1].
    """
    if not rows:
        raise ValueError("expected at least one labelled row of images; got none.")
    images = {label: _to_rgb(label, to_numpy(x), shape) for label, x in rows.items()}
    sizes = {label: x.shape[1:3] for label, x in images.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected one height and width in all rows; got {sizes}.")
    count = max(len(x) for x in images.values())
    height, width = next(iter(sizes.values()))
    inches = min(0.9, 10.0 / count)
    row_inches = max(0.3, inches * height / width)
    size = (1.8 + inches * count, 0.6 + (row_inches + 0.08) * len(rows))
    figure = Figure(figsize=size, layout="compressed")
    grid = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (label, x) in zip(grid, images.items(), strict=True):
        strip = np.ones((height, count, width + 1, 3))  # white where there is no image
        strip[:, : len(x), :width] = np.where(np.isnan(x), to_rgb(BLUE), x).swapaxes(0, 1)
        axes.imshow(strip.reshape(height, -1, 3)[:, :-1], interpolation="nearest")
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if any(np.isnan(x).any() for x in images.values()):
        grid[-1].set_xlabel("blue: missing pixels")
    figure.suptitle(title)
    return figure


def image_plane(images: Tensor, shape: tuple[int, ...] | None = None, title: str = "") -> Figure:
    r"""One sheet of images, as many down as across, in reading order.

    Arguments:
        images: Values in [0, 1], :math:`(n^2, D)`, :math:`(n^2, H, W)` or :math:`(n^2, C, H, W)`,
            C = 1 or 3.
        shape: :math:`(H, W)` or :math:`(C, H, W)` of one image; needed for vectors that are not
            square.
        title: Heading of the figure.

    Returns:
        One axis with the sheet.

    Raises:
        ValueError: If their number is no square, or as in `image_grid`.
    """
    tiles = _to_rgb("plane", to_numpy(images), shape)
    side = math.isqrt(len(tiles))
    if side**2 != len(tiles):
        raise ValueError(f"expected a square number of images; got {len(tiles)}.")
    _, height, width, _ = tiles.shape
    rows = tiles.reshape(side, side, height, width, 3).swapaxes(1, 2)
    figure = Figure(figsize=(7.0, 7.0 * height / width), layout="constrained")
    axes = figure.add_subplot()
    sheet = np.nan_to_num(rows.reshape(side * height, side * width, 3))
    axes.imshow(sheet, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.suptitle(title)
    return figure


def plane(steps: int = 15, share: float = 0.98) -> Tensor:
    r"""A grid over two standard normal numbers, at equal steps of probability.

    Arguments:
        steps: Points a side.
        share: Probability, of each number, between the outermost points.

    Returns:
        Points in reading order, the first number growing to the right and the second upwards, with
        shape :math:`(\text{steps}^2, 2)`; feed them to `ppvae.traverse`.

    Raises:
        ValueError: If there are fewer than two steps, or the share is not between 0 and 1.
    """
    if steps < 2 or not 0 < share < 1:
        raise ValueError(
            f"expected at least 2 steps and a share in (0, 1); got {steps} and {share}."
        )
    probability = torch.linspace((1 - share) / 2, (1 + share) / 2, steps)
    values = torch.distributions.Normal(0.0, 1.0).icdf(probability)
    up, right = torch.meshgrid(values.flip(0), values, indexing="ij")
    return torch.stack([right.flatten(), up.flatten()], -1)


def picture_shape(rows: Tensor) -> tuple[int, ...]:
    r"""Shape of one picture, where rows are pictures with grey values or colours in [0, 1].

    Arguments:
        rows: Rows of data, :math:`(n, *)`; NaN is a missing pixel.

    Returns:
        :math:`(H, W)` or :math:`(C, H, W)`, for `image_grid`.

    Raises:
        ValueError: If they are no pictures; it says why.
    """
    shape = tuple(rows.shape[1:])
    side = math.isqrt(math.prod(shape))
    if len(shape) == 1 and side >= MIN_SIDE and side**2 == shape[0]:
        shape = (side, side)
    elif len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"rows of shape {shape} are no pictures (a square, or channels first).")
    if bool((rows < 0).any()) or bool((rows > 1).any()):
        raise ValueError(
            "the values of the rows are not all in [0, 1], so they are no grey values."
        )
    return shape


def _to_rgb(label: str, values: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Images of any accepted shape as `(n, H, W, 3)`; `label` names them in an error."""
    if values.ndim < 2 or not values.size:
        raise ValueError(
            f"expected images of shape (n, D), (n, H, W) or (n, C, H, W) in row {label!r}; "
            f"got {values.shape}."
        )
    if (values < 0).any() or (values > 1).any():
        raise ValueError(
            f"expected values in [0, 1] in row {label!r}; got {np.nanmin(values):.3g} to "
            f"{np.nanmax(values):.3g}. Rescale or clamp them first."
        )
    own = values.shape[1:]
    side = math.isqrt(own[0])
    if shape is None and len(own) == 1 and side**2 != own[0]:
        raise ValueError(
            f"expected a square number of pixels in row {label!r}; got {own[0]}. Pass shape=(H, W)."
        )
    shape = shape or (own if len(own) > 1 else (side, side))
    if math.prod(shape) != values[0].size or len(shape) not in (2, 3):
        raise ValueError(
            f"expected images that fit shape {tuple(shape)} in row {label!r}; got "
            f"{own}. Pass shape=(H, W) or (C, H, W)."
        )
    channels = shape[0] if len(shape) == 3 else 1
    if channels not in (1, 3):
        raise ValueError(f"expected 1 or 3 channels in row {label!r}; got {channels}.")
    images = values.reshape(len(values), channels, *shape[-2:]).transpose(0, 2, 3, 1)
    return np.broadcast_to(images, (*images.shape[:3], 3))
