r"""Which rows fail: k-hat of each row against anything else that is known of it."""

__all__ = ["khat_map"]

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .style import BLUE, ORANGE, bare, to_numpy

HIGHEST, LOWEST = 3.0, -3.0


def khat_map(
    khat: Tensor,
    against: Tensor,
    threshold: float,
    *,
    label: str,
    axes: Axes | None = None,
) -> Figure:
    r"""One point a row; rows above the threshold are crosses.

    Arguments:
        khat: :math:`\hat k` of each row, dimensionless, with shape :math:`(B,)`; drawn within ±3.
        against: What to hold it against: log evidence, reconstruction error, a label, a covariate;
            :math:`(B,)`.
        threshold: Largest trustworthy :math:`\hat k`, dimensionless.
        label: What `against` is, with its unit.
        axes: Where to draw; a new figure if None.

    Returns:
        The figure.

    Raises:
        ValueError: If the lengths differ or there is no row.
    """
    if khat.dim() != 1 or khat.shape != against.shape or not len(khat):
        raise ValueError(
            f"expected two numbers for each of at least one row; got shapes {tuple(khat.shape)} and "
            f"{tuple(against.shape)}."
        )
    if axes is None:
        axes = Figure(figsize=(6.5, 4), layout="constrained").subplots()
    x, y = to_numpy(against), to_numpy(khat.clamp(LOWEST, HIGHEST))
    bad = y > threshold
    axes.scatter(x[~bad], y[~bad], s=10, color=BLUE, marker="o", alpha=0.6, label="trusted")
    axes.scatter(
        x[bad], y[bad], s=18, color=ORANGE, marker="x", label=f"not trusted ({bad.mean():.0%})"
    )
    axes.axhline(threshold, color="black", linestyle="--", linewidth=1.0)
    axes.set_xlabel(label)
    axes.set_ylabel(r"$\hat{k}$ (dimensionless)")
    axes.set_title("Which rows fail")
    axes.legend(framealpha=0.9, edgecolor="none", fontsize="small")
    bare(axes)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure
