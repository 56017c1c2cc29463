r"""Neural spline flow: monotone splines whose knots depend on the numbers before."""

__all__ = ["NSF"]

from collections.abc import Sequence

from ppvae.guides.autoregressive import AutoregressiveGuide


class NSF(AutoregressiveGuide):
    r"""A Gaussian bent by autoregressive rational-quadratic splines and affine layers in turn.

    Assumes a posterior that a one-to-one map can make from a Gaussian; the splines can tear it into
    several nearly separate pieces. `num_layers` counts pairs of a spline and an affine layer: the
    spline is the identity beyond five standard deviations, the affine layer carries correlation
    there (and makes the family contain `IAF` of as many layers). Other arguments as for
    `AutoregressiveGuide`, `FlowGuide` and `Guide`.

    Source:
        C. Durkan, A. Bekasov, I. Murray, G. Papamakarios (2019). Neural spline flows.
    """

    min_dim = 1

    def layers(self, dim: int, num_layers: int) -> tuple[Sequence[str], int]:
        return ("spline", "affine") * num_layers, dim
