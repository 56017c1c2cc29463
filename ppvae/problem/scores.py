r"""What particles weigh: log p(x, z), log q(z | x) and their difference, row by row."""

__all__ = ["Scores"]

from dataclasses import dataclass

from torch import Tensor

from ppvae.story import TensorDict


@dataclass(frozen=True)
class Scores:
    """What S particles of each of B rows weigh.

    No term carries the scale N/B of a minibatch: it belongs outside every logarithm, and a mean
    over rows holds it.

    Arguments:
        latents: Latent site that the guide draws -> `(S, B, *row)`; a global site `(S, *event)`.
        log_joint: log p(x, z) of the row, `(S, B)`, in nats, summed over the discrete sites that
            the guide leaves out.
        log_guide: log q(z | x) of the row, `(S, B)`, in nats.
        log_global: log p − log q of the global sites, `(S,)`, in nats; 0 without any.
    """

    latents: TensorDict
    log_joint: Tensor
    log_guide: Tensor
    log_global: Tensor

    @property
    def log_weights(self) -> Tensor:
        """log w = log p(x, z) − log q(z | x), `(S, B)`, in nats."""
        return self.log_joint - self.log_guide
