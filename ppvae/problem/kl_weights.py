r"""Weights on the terms of latent sites, in story and guide alike: β, and its warm-up."""

__all__ = ["KLWeights"]

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppvae.problem.draws import GuideSite
from ppvae.story import SampleRows, Sites


class KLWeights(Messenger):
    """Counts the log density of each latent site `weight_of(site)` times; observed sites count
    once.

    Arguments:
        sites: The story's sites.
        beta: One weight for all latent sites, or site -> weight; sites that are not named keep 1.
        drawn: What the guide draws; sites that are drawn together cannot be weighed apart.

    Attributes:
        warmup: A further factor on every weight, 1 after the warm-up; a tensor `()` where it is an
            input of a captured step.

    Raises:
        ValueError: If a name is no latent site, a weight is negative, or sites drawn together are
            to be weighed apart.
    """

    warmup: float | Tensor = 1.0

    def __init__(
        self, sites: Sites, beta: float | Mapping[str, float], drawn: Mapping[str, GuideSite]
    ) -> None:
        super().__init__()
        self.beta = beta
        self.observed = set(sites.observed)
        self._check(sites, drawn)

    @property
    def is_plain(self) -> bool:
        """Whether every weight is 1 outside warm-up."""
        weights = self.beta.values() if isinstance(self.beta, Mapping) else [self.beta]
        return all(weight == 1 for weight in weights)

    @property
    def is_idle(self) -> bool:
        """Whether every weight is 1 now."""
        return not isinstance(self.warmup, Tensor) and self.warmup == 1 and self.is_plain

    def weight_of(self, name: str) -> float | Tensor:
        """How often the latent site's terms count."""
        beta = self.beta
        return self.warmup * (beta.get(name, 1.0) if isinstance(beta, Mapping) else beta)

    def of_guide(self, drawn: SampleRows) -> Tensor:
        """log q(z | x) with its weights, `(S, B)`, in nats."""
        if not isinstance(self.beta, Mapping):
            return drawn.local if self.is_idle else self.weight_of("") * drawn.local
        return sum(
            (self.weight_of(k) * v for k, v in drawn.by_site.items() if drawn.is_local[k]),
            0 * drawn.local,
        )

    def of_guide_global(self, drawn: SampleRows) -> Tensor:
        """log q of the global sites with its weights, `(S,)`, in nats."""
        parts = [self.weight_of(k) * v for k, v in drawn.by_site.items() if not drawn.is_local[k]]
        return sum(parts, 0 * drawn.shared)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.observed:
            msg["scale"] = msg["scale"] * self.weight_of(msg["name"])

    def _check(self, sites: Sites, drawn: Mapping[str, GuideSite]) -> None:
        weights = dict(self.beta) if isinstance(self.beta, Mapping) else {"beta": self.beta}
        low = {name: weight for name, weight in weights.items() if not weight >= 0}
        if low:
            raise ValueError(f"expected weights of 0 or more for the latent terms, got {low}")
        if not isinstance(self.beta, Mapping):
            return
        unknown = sorted(set(weights) - set(sites.latent))
        if unknown:
            raise ValueError(
                f"expected weights for latent sites among {sorted(sites.latent)}, got {unknown}"
            )
        joint = sorted(set(drawn) - set(sites.latent))
        if joint and not self.is_plain:
            raise ValueError(
                "expected a guide that draws each site by itself for weights by site, got joint "
                f"draws at {joint}; give one number as beta, or use the guide mean_field"
            )
