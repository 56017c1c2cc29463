r"""Particles and their weights, row by row and with gradients: what the bounds of this folder are made of."""

__all__ = ["Particles", "weigh"]

from dataclasses import dataclass

from torch import Tensor, nn

from ppvae.problem.kl_weights import KLWeights
from ppvae.story import LogJoint, SampleRows, Sites, TensorDict


@dataclass(frozen=True)
class Particles:
    """What S particles of each of B rows weigh, latent terms counted as the tempering says.

    No term carries the plate's scale N/B: it belongs outside every logarithm, and a mean over the rows holds it.

    Arguments:
        log_joint: log p(x, z) of the row, `(S, B)`, in nats.
        log_guide: log q(z | x) of the row, `(S, B)`, in nats.
        log_shared: log p − log q of the global sites, `(S,)`, in nats; 0 without any.
    """

    log_joint: Tensor
    log_guide: Tensor
    log_shared: Tensor

    @property
    def log_weights(self) -> Tensor:
        """log w = log p(x, z) − log q(z | x), `(S, B)`, in nats."""
        return self.log_joint - self.log_guide


def weigh(
    story: nn.Module, batch: TensorDict, sites: Sites, drawn: SampleRows, kl_weights: KLWeights
) -> Particles:
    """Score what a guide drew under the story.

    Arguments:
        story: The story.
        batch: Rows, name -> `(B, *event)`.
        sites: The story's sites.
        drawn: The guide's draws and their densities.
        tempering: The weights of the latent sites' terms.
    """
    log_joint = LogJoint(story, batch, sites)
    if kl_weights.is_idle:
        log_p, log_p_shared = log_joint.split(drawn.values)
        return Particles(log_p, drawn.local, log_p_shared - drawn.shared)
    with kl_weights:
        log_p, log_p_shared = log_joint.split(drawn.values)
    return Particles(
        log_p, kl_weights.of_guide(drawn), log_p_shared - kl_weights.of_guide_shared(drawn)
    )
