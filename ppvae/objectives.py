r"""Training objectives as modules: called on a batch, they return the loss in nats per row (lower is better)."""

__all__ = ["OBJECTIVES", "Objective", "build"]

from typing import Any

import pyro.infer
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from ppvae.story import Batch, Sites, TensorDict, num_rows_of, observe, run, scale_rows

OBJECTIVES: dict[str, tuple[type[ELBO], str]] = {
    "trace_elbo": (pyro.infer.Trace_ELBO, "ELBO, every term by Monte Carlo: any guide"),
    "mean_field_elbo": (
        pyro.infer.TraceMeanField_ELBO,
        "ELBO with analytic KL terms where Pyro knows them: guides that factorise over sites",
    ),
}


class Objective(nn.Module):
    """One of Pyro's ELBOs as a loss per row, through `ELBOModule`.

    Sites in the plate `data` count `N/B` times where global sites stand beside them.

    Arguments:
        elbo: The Pyro ELBO.
        story: The story.
        guide: Its guide.
        num_rows: Number N of rows in all.
        sites: The story's sites.
    """

    def __init__(
        self, elbo: ELBO, story: nn.Module, guide: nn.Module, num_rows: int, sites: Sites
    ) -> None:
        super().__init__()
        self.tempering = _Tempering()
        self.scaled_to = num_rows if sites.global_latent else None
        model: nn.Module = observe(story)
        if self.scaled_to is not None:
            model, guide = scale_rows(model, num_rows), scale_rows(guide, num_rows)
        self.elbo = elbo(_Tempered(model, self.tempering), _Tempered(guide, self.tempering))

    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        """The loss of a batch.

        Arguments:
            batch: Name -> `(B, *event)`.
            kl_weight: Weight of the latent sites' terms, 1 for the ELBO; less during warm-up.

        Returns:
            `()`, in nats per row.
        """
        self.tempering.kl_weight = kl_weight
        return self.elbo(batch) / (self.scaled_to or num_rows_of(batch))


def build(
    name: str,
    story: nn.Module,
    guide: nn.Module,
    *,
    num_rows: int,
    sites: Sites,
    num_particles: int = 1,
) -> Objective:
    """Make the named objective.

    Arguments:
        name: A key of `OBJECTIVES`.
        story: The story.
        guide: Its guide.
        num_rows: Number N of rows in all.
        sites: The story's sites.
        num_particles: Particles of each row, drawn at once.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"expected an objective among {', '.join(OBJECTIVES)}; got '{name}'")
    elbo = OBJECTIVES[name][0](
        num_particles=num_particles,
        # An adopted model need not know particle dimensions: one run for each.
        vectorize_particles=num_particles > 1 and not hasattr(story, "run_conditioned"),
        max_plate_nesting=sites.max_plate_nesting,
    )
    return Objective(elbo, story, guide, num_rows, sites)


class _Tempering(Messenger):
    """Scales the terms of latent sites, in model and guide alike."""

    kl_weight = 1.0

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.kl_weight


class _Tempered(nn.Module):
    def __init__(self, program: nn.Module, tempering: _Tempering) -> None:
        super().__init__()
        self.program, self.tempering = program, tempering

    def forward(self, batch: Batch) -> Any:
        if self.tempering.kl_weight == 1.0:
            return run(self.program, batch)
        with self.tempering:
            return run(self.program, batch)
