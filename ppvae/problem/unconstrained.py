r"""log p(x, z) as a function of one real vector for each row, with its gradient."""

__all__ = ["Unconstrained"]

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ppvae.story import Flat, Sites, TensorDict


class Unconstrained:
    r"""The continuous latent sites of a row as :math:`u \in R^d`, and :math:`\log p(x, z(u)) + \log
    |det\, dz/du|`.

    Arguments:
        log_joint: Latent sites, name -> `(S, B, *row)`, to log p(x, z), `(S, B)`, in nats.
        sites: The story's sites.

    Attributes:
        flat: The map between sites and u.
        dim: d.
    """

    def __init__(self, log_joint: Callable[[TensorDict], Tensor], sites: Sites) -> None:
        self.flat = Flat(sites.local_continuous)
        self.dim = self.flat.dim
        self._log_joint = log_joint

    def log_joint(self, u: Tensor) -> Tensor:
        """log p(x, z(u)) with the Jacobian, `(S, B, d)` to `(S, B)`, in nats."""
        latents, log_det = self.unflatten(u)
        return self._log_joint(latents) + log_det

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """`log_joint(u)` and its gradient `(S, B, d)`, detached; 0 where it is not finite."""
        with torch.enable_grad():
            u = u.detach().requires_grad_(True)
            value = self.log_joint(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), torch.nan_to_num(gradient, 0.0, 0.0, 0.0)

    def flatten(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Sites, name -> `(*, B, *row)`, to u, `(*, B, d)`."""
        return self.flat.flatten(latents)

    def unflatten(self, u: Tensor) -> tuple[TensorDict, Tensor]:
        """u, `(*, B, d)`, to sites and log |det dz/du|, `(*, B)`, in nats."""
        return self.flat.unflatten(u)
