r"""What results have in common: they print, show in a notebook and draw themselves."""

__all__ = ["Result"]

from typing import Any


class Result:
    """A result that holds numbers only. `ppvae.viz`, imported when it is needed, shows them."""

    def __str__(self) -> str:
        from ppvae.viz.tables import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from ppvae.viz.tables import to_html

        return to_html(self)

    def plot(self, axes: Any = None, **options: Any) -> Any:
        """Draw the result with `ppvae.viz.figures.draw`.

        Arguments:
            axes: matplotlib axes to draw on; a new figure if None. Results of several panels take
                none.
            options: Of the result's figure, see `ppvae.viz.figures`.

        Returns:
            The matplotlib figure; save it with `figure.savefig(path)`.

        Raises:
            TypeError: If the result has no figure.
        """
        from ppvae.viz.figures import draw

        return draw(self, axes, **options)
