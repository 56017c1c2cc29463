r"""The two kinds of stories, and how each runs on rows: the only place that tells them apart."""

__all__ = ["AdoptedProgram", "GenerativeProgram", "StoryProgram", "program_of"]

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ppvae.story.adopt import AdoptedStory
from ppvae.story.batch import num_rows_of, split_batch
from ppvae.story.handlers import Condition, RowLogProb, SampleRows
from ppvae.story.running import TensorDict, local_params, run, run_particles
from ppvae.story.sites import Sites


class StoryProgram(ABC):
    """A story as a program that runs on given rows, for any number of particles.

    Arguments:
        story: The story.

    Attributes:
        generates_rows: Whether it generates rows without being shown any.
        takes_particles: Whether it must accept leading particle dimensions; else it is run once for
            each particle where it does not.
    """

    generates_rows: ClassVar[bool]
    takes_particles: ClassVar[bool]

    def __init__(self, story: nn.Module) -> None:
        self.story: Any = story

    @abstractmethod
    def split(self, batch: TensorDict) -> tuple[TensorDict, TensorDict]:
        """Values of sites, and covariates, each name -> `(B, *event)`."""

    @abstractmethod
    def inputs(self, batch: TensorDict) -> TensorDict:
        """What `forward` takes beside n to generate rows beside these, name -> `(B, *)`."""

    @abstractmethod
    def run(self, batch: TensorDict, inputs: TensorDict) -> None:
        """Run once, under the handlers that the caller has opened."""

    def run_conditioned(
        self, batch: TensorDict, latents: Mapping[str, Tensor], particle_dim: int
    ) -> None:
        """Run with sites fixed to the batch's values and to `latents`.

        Raises:
            ValueError: If a key of the batch names no site and no covariate.
        """
        values, inputs = self.split(batch)
        condition = Condition(values, latents, particle_dim)
        with condition:
            self.run(batch, inputs)
        unused = sorted({*values, *latents} - condition.seen)
        if unused:
            raise ValueError(
                f"expected keys that name sites or covariates of the story, got {unused}; "
                f"the story's sites are {sorted(condition.met)}; leave the other keys out of the "
                "data"
            )

    def score(self, batch: TensorDict, latents: TensorDict, sites: Sites) -> RowLogProb:
        """Log density of every site, row by row, for particles with a value at every latent site.

        Arguments:
            batch: Rows, name -> `(B, *event)`.
            latents: Name -> `(S, B, *row)`; a global site `(S, *row)`. None at all counts as one
                particle.
            sites: The story's sites.
        """

        def scored(values: TensorDict, num_particles: int, dim: int) -> RowLogProb:
            handler = RowLogProb(sites.particle_dim, num_particles, num_rows_of(batch))
            with local_params(self.story), handler:
                self.run_conditioned(batch, values, dim)
            return handler

        return run_particles(scored, latents, sites.particle_dim, self.takes_particles)

    def generate(
        self,
        batch: TensorDict,
        latents: TensorDict,
        sites: Sites,
        given: TensorDict,
        means: Collection[str] = (),
    ) -> TensorDict:
        """Every site for given latent draws, the observed ones drawn anew, name -> `(S, B, *row)`.

        Arguments:
            batch: Rows; their number and inputs count, no observed value does.
            latents: As in `score`.
            sites: The story's sites.
            given: Values of observed sites to hold, name -> `(B, *row)`.
            means: Sites of which the mean of the distribution is wanted in place of a draw.
        """
        inputs = self.inputs(batch)

        def generated(values: TensorDict, num_particles: int, dim: int) -> SampleRows:
            handler = SampleRows(
                sites.particle_dim, num_particles, num_rows_of(batch), log_probs=False, means=means
            )
            with local_params(self.story), handler, Condition(given, values, dim):
                self.story(num_rows_of(batch), **inputs)
            return handler

        return run_particles(generated, latents, sites.particle_dim, self.takes_particles).values


class GenerativeProgram(StoryProgram):
    """A story whose `forward(n, **covariates)` generates rows."""

    generates_rows = True
    takes_particles = True

    def split(self, batch: TensorDict) -> tuple[TensorDict, TensorDict]:
        return split_batch(self.story, batch)

    def inputs(self, batch: TensorDict) -> TensorDict:
        return self.split(batch)[1]

    def run(self, batch: TensorDict, inputs: TensorDict) -> None:
        run(self.story, num_rows_of(batch), **inputs)


class AdoptedProgram(StoryProgram):
    """A Pyro model that takes its rows and observes them; it need not know particles."""

    generates_rows = False
    takes_particles = False

    def split(self, batch: TensorDict) -> tuple[TensorDict, TensorDict]:
        return {}, {}

    def inputs(self, batch: TensorDict) -> TensorDict:
        return batch

    def run(self, batch: TensorDict, inputs: TensorDict) -> None:
        self.story.run_conditioned(batch)


def program_of(story: nn.Module) -> StoryProgram:
    """The story as a program of its kind."""
    kind = AdoptedProgram if isinstance(story, AdoptedStory) else GenerativeProgram
    return kind(story)
