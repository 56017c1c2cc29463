r"""A story, a guide and rows, checked and traced once, as plain functions of tensors.

Everything above this room (objectives, bounds, importance sampling, HMC, annealing, q*,
diagnostics, prediction) calls these functions. None of it runs Pyro's handlers, checks or traces
again.
"""

__all__ = ["Problem"]

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.data import open_rows, preview, to_batch
from ppvae.data.chunks import is_unamortized, particle_step, pieces, rows_per_chunk
from ppvae.problem.draws import GuideSite, draw_path, record_guide_sites
from ppvae.problem.guide_density import log_guide_at, log_guide_of
from ppvae.problem.kl_weights import KLWeights
from ppvae.problem.scores import Scores
from ppvae.problem.unconstrained import Unconstrained
from ppvae.story import (
    LogJoint,
    SampleRows,
    Sites,
    StoryProgram,
    TensorDict,
    check_data,
    check_guide_sites,
    num_rows_of,
    partially_observed,
    program_of,
    seeded_eval,
)

ROWS_TO_CHECK = 2


@dataclass(frozen=True)
class Problem:
    """A pair and rows as functions of tensors; made by `Problem.of`.

    Arguments:
        story: The story.
        guide: Its guide; None where nothing is drawn from one.
        sites: The story's sites under these rows.
        batch: The rows, on the story's device and in its precision, name -> `(B, *event)`.
        total_rows: Number N of rows in all, of which these are a part.
        first_row: Number of the first of these rows among all.
        guide_sites: What the guide draws, auxiliary sites included.
        enumerated: Discrete sites that scoring sums over: the guide leaves them out, or some rows
            miss them.
    """

    story: nn.Module
    guide: Any  # a module; None where nothing is drawn from one
    sites: Sites
    batch: TensorDict
    total_rows: int
    first_row: int = 0
    guide_sites: Mapping[str, GuideSite] = field(default_factory=dict)
    enumerated: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, story: nn.Module, guide: nn.Module | None, data: Any, *, independent_for: str = ""
    ) -> "Problem":
        """Check that story, guide and rows fit, and trace them.

        Arguments:
            story: The story.
            guide: Any Pyro guide for it; None for none.
            data: Rows, anything that `ppvae.data.as_rows` takes.
            independent_for: The purpose that needs rows which are independent given the parameters;
                empty for none.

        Raises:
            ValueError: If they do not fit: which site, what was expected, what came, what to do; or
                if the story has global latent sites and the purpose needs independent rows.
        """
        batch = to_batch(story, data)
        problem = cls._checked(story, guide, batch, num_rows_of(batch))
        if independent_for:
            problem.check_independent_rows(independent_for)
        return problem

    @classmethod
    def for_training(cls, story: nn.Module, guide: nn.Module, data: Any) -> "Problem":
        """As `of`, with the rows in memory, or the first rows of a stream, as the batch."""
        rows = open_rows(data)
        return cls._checked(story, guide, to_batch(story, preview(rows)), len(rows))

    @classmethod
    def _checked(
        cls, story: nn.Module, guide: nn.Module | None, batch: TensorDict, total_rows: int
    ) -> "Problem":
        if guide is not None and not isinstance(guide, nn.Module):
            raise ValueError(
                f"expected a guide that is a module, got a {type(guide).__name__}; "
                "ppvae.adopt(model, guide) makes a plain Pyro pair into one"
            )
        modules = (story,) if guide is None else (story, guide)
        with torch.no_grad(), seeded_eval(0, *modules):  # rows that are not finite are named later
            sites = check_data(story, batch)
            missed = tuple(partially_observed(story, batch, sites))
            problem = cls(story, None, sites, batch, total_rows, enumerated=missed)
            return problem if guide is None else problem._with_checked_guide(guide)

    def _with_checked_guide(self, guide: nn.Module) -> "Problem":
        """Run the guide on a few rows, check what it draws, and score it."""
        few = self.batch if is_unamortized(guide) else self.rows(slice(0, ROWS_TO_CHECK)).batch
        drawn, guide_sites = record_guide_sites(guide, few, self.sites)
        check_guide_sites(drawn, self.sites)
        left_out = tuple(name for name in self.sites.latent if name not in drawn.values)
        problem = replace(
            self, guide=guide, guide_sites=guide_sites, enumerated=(*left_out, *self.enumerated)
        )
        problem.on(few).score_draws(drawn)
        return problem

    # Other rows, other guides.

    def with_rows(self, data: Any) -> "Problem":
        """The same functions of rows that come from elsewhere: their values are checked, the pair
        is not run again.

        Arguments:
            data: Rows with the same keys, anything that `ppvae.data.as_rows` takes.

        Raises:
            ValueError: If a key, shape or value does not fit.
        """
        batch = to_batch(self.story, data)
        if batch.keys() != self.batch.keys():
            raise ValueError(
                f"expected rows with the keys {sorted(self.batch)}, got {sorted(batch)}"
            )
        with torch.no_grad(), self.eval_mode(0):
            check_data(self.story, batch, self.sites)
            missed = tuple(partially_observed(self.story, batch, self.sites))
        left_out = [n for n in self.enumerated if n in self.sites.latent]
        return replace(
            self, batch=batch, total_rows=num_rows_of(batch), first_row=0,
            enumerated=(*left_out, *missed),
        )  # fmt: skip

    def on(self, batch: TensorDict, first_row: int = 0) -> "Problem":
        """The same functions of other rows of the same kind, which are not checked."""
        return replace(self, batch=batch, first_row=first_row)

    def rows(self, where: slice | Tensor) -> "Problem":
        """The same functions of some of these rows."""
        start = where.start or 0 if isinstance(where, slice) else 0
        return self.on({k: v[where] for k, v in self.batch.items()}, self.first_row + start)

    def pieces(self, num_rows: int | None = None, *, num_particles: int = 1) -> Iterator["Problem"]:
        """Consecutive pieces of so many rows; a guide with parameters for each row is not cut.

        Arguments:
            num_rows: Rows of a piece; None for as many as so many particles of fit in memory.
            num_particles: Particles of each row that are in memory at a time.
        """
        step = rows_per_chunk(self.batch, num_particles) if num_rows is None else num_rows
        step = self.num_rows if is_unamortized(self.guide) else step
        for start in range(0, self.num_rows, step):
            yield self.rows(slice(start, start + step))

    def particle_sizes(self, num_particles: int) -> list[int]:
        """Sizes of the pieces in which so many particles of these rows fit in memory."""
        return pieces(num_particles, particle_step(self.batch, self.num_rows))

    def with_guide(self, guide: nn.Module | None) -> "Problem":
        """The same rows with another guide of the same sites, such as q*; it is not checked."""
        return replace(self, guide=guide)

    @property
    def num_rows(self) -> int:
        """B."""
        return num_rows_of(self.batch)

    @property
    def program(self) -> StoryProgram:
        """How the story runs, by its kind."""
        return program_of(self.story)

    @property
    def covariates(self) -> TensorDict:
        """What the story takes beside the number of rows, name -> `(B, *)`; {} if adopted."""
        return self.program.split(self.batch)[1]

    def check_independent_rows(self, purpose: str) -> None:
        """Refuse global latent sites, given which alone rows are independent.

        Raises:
            ValueError: Naming the sites.
        """
        names = sorted(self.sites.global_latent)
        if names:
            raise ValueError(
                "expected a story whose latent sites are all inside the plate 'data' for "
                f"{purpose}, got the global sites {names}; make them parameters of the story"
            )

    def eval_mode(self, seed: int | None) -> AbstractContextManager[None]:
        """Evaluation mode, draws from `seed` (None: the global generators), no argument checks."""
        modules = (self.story,) if self.guide is None else (self.story, self.guide)
        return seeded_eval(seed, *modules)

    # Draws.

    def draw(self, num_particles: int) -> SampleRows:
        """S particles of the guide, path-wise, with their log densities; see `draws` for others."""
        return draw_path(self, num_particles)

    def draw_all(self, num_particles: int) -> SampleRows:
        """As `draw`, with enumerated sites drawn from their exact conditional p(y | x, z) too.

        The log densities of several enumerated sites stand in `by_site` under one name, joined by
        `+`.
        """
        drawn = self.draw(num_particles)
        absent = [
            name for name in (*self.sites.latent, *self._joint.partly) if name not in drawn.values
        ]
        if absent:
            num_draws = 1 if drawn.values else num_particles
            drawn.values, log_conditional = self._joint.complete(drawn.values, num_draws)
            drawn.by_site["+".join(absent)] = log_conditional
            drawn.is_local["+".join(absent)] = True
        return drawn

    # Densities.

    def log_joint(self, latents: Mapping[str, Tensor]) -> Tensor:
        """log p(x, z), `(S, B)`, in nats; discrete sites that are left out are summed over."""
        return self._joint(latents)

    def log_joint_by_site(self, latents: Mapping[str, Tensor]) -> TensorDict:
        """log p of each site, name -> `(S, B)`, a global one `(S,)`; absent sites are drawn."""
        return self._joint.by_site(latents)

    def log_guide(self, latents: TensorDict) -> Tensor:
        """log q(z | x) at given values, `(S, B)`, in nats."""
        return log_guide_at(self._guide, self.batch, latents, self.sites)

    def log_guide_of(self, drawn: SampleRows) -> Tensor:
        """log q(z | x) of the guide's own draws, comparable with `log_guide`, `(S, B)`, in nats."""
        return log_guide_of(self._guide, self.batch, drawn, self.sites)

    def score(self, num_particles: int = 1) -> Scores:
        """Draw S particles and score them under both programs; gradients flow."""
        return self.score_draws(self.draw(num_particles))

    def score_draws(self, drawn: SampleRows, kl_weights: KLWeights | None = None) -> Scores:
        """Score what the guide drew.

        Arguments:
            drawn: Draws and their densities.
            kl_weights: Weights of the latent sites' terms; None for 1.
        """
        if kl_weights is None or kl_weights.is_idle:
            log_joint, log_prior_global = self._joint.split(drawn.values)
            log_guide, log_guide_global = drawn.local, drawn.shared
        else:
            with kl_weights:
                log_joint, log_prior_global = self._joint.split(drawn.values)
            log_guide = kl_weights.of_guide(drawn)
            log_guide_global = kl_weights.of_guide_global(drawn)
        log_guide = log_guide.to(log_joint)
        log_global = log_prior_global - log_guide_global.to(log_joint)
        return Scores(drawn.values, log_joint.expand_as(log_guide), log_guide, log_global)

    def log_weights(self, num_particles: int) -> Tensor:
        """log w = log p(x, z) − log q(z | x), `(S, B)`, in nats, in pieces that fit in memory."""
        sizes = self.particle_sizes(num_particles)
        return torch.cat([self.score(size).log_weights for size in sizes])

    @cached_property
    def unconstrained(self) -> Unconstrained:
        """log p(x, z(u)) over real vectors u, with its gradient."""
        return Unconstrained(self.log_joint, self.sites)

    @cached_property
    def _joint(self) -> LogJoint:
        return LogJoint(self.story, self.batch, self.sites)

    @property
    def _guide(self) -> nn.Module:
        if self.guide is None:
            raise ValueError("expected a guide to draw from, got none; pass guide=...")
        return self.guide
