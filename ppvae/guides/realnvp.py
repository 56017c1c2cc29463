r"""Real NVP: coupling layers, in which one half of the numbers shifts and scales the other."""

__all__ = ["RealNVP"]

from collections.abc import Sequence

from ppvae.guides.autoregressive import AutoregressiveGuide

COUPLING = 2


class RealNVP(AutoregressiveGuide):
    r"""A Gaussian bent by affine coupling layers; as fast to invert as to draw from.

    Assumes a posterior that a smooth one-to-one map can make from a Gaussian; weaker than `IAF`
    layer by layer, cheaper where foreign samples are scored (two passes a layer, not `d`). Here the
    first half, which Dinh et al. copy, is shifted and scaled by the context. Arguments as for
    `AutoregressiveGuide`, `FlowGuide` and `Guide`.

    Source:
        L. Dinh, J. Sohl-Dickstein, S. Bengio (2017). Density estimation using Real NVP.
    """

    def layers(self, dim: int, num_layers: int) -> tuple[Sequence[str], int]:
        return ("affine",) * num_layers, COUPLING
