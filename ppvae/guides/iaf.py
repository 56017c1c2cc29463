r"""Inverse autoregressive flow: noise bent by autoregressive networks that see the row."""

__all__ = ["IAF"]

from collections.abc import Sequence

from ppvae.guides.autoregressive import AutoregressiveGuide


class IAF(AutoregressiveGuide):
    r"""A Gaussian bent by an inverse autoregressive flow: each given those before.

    Assumes a posterior that a smooth one-to-one map can make from a Gaussian (one piece, any
    correlation and skew). Starts as `MeanField` and contains it. Arguments as for
    `AutoregressiveGuide`, `FlowGuide` and `Guide`.

    Source:
        D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling (2016).
        Improving variational inference with inverse autoregressive flow.
    """

    def layers(self, dim: int, num_layers: int) -> tuple[Sequence[str], int]:
        return ("affine",) * num_layers, dim
