r"""The objective contract: a module that turns a batch into a loss in nats per row."""

__all__ = ["Objective", "with_gradient_of"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ppvae.options import options_of
from ppvae.problem import GuideSite, KLWeights, Problem
from ppvae.story import TensorDict

NO_PATH = (
    "expected a guide whose draws are differentiable functions of its parameters for {name}, got "
    "distributions without rsample at the sites {sites}; use score_function or vimco, or a "
    "reparametrised distribution there"
)
NOT_INDEPENDENT = (
    "expected a guide that draws the particles of a row independently for {name}, got one that "
    "spreads them over its components at the sites {sites}; use iwae or stl with it, or another "
    "guide"
)
NO_DENSITY = (
    "expected a guide whose draws are scored by their density for {name}, got a reverse model "
    "beside it at the sites {sites}, which this gradient would not train rightly; use trace_elbo "
    "or iwae with it, or another guide"
)


class Objective(nn.Module, ABC):
    """What training descends: a loss of story and guide, made for one pair and one set of rows.

    A plain module over both, so that `parameters()` are all that is to be trained: the story's, the
    guide's and, for some, a baseline's.

    Arguments:
        problem: Story, guide and training rows (of a stream, its first rows), see
            `Problem.for_training`.
        num_particles: Particles of each row, drawn at once.
        beta: Weight of the latent sites' terms, one for all or by site; 1 gives the bound itself.

    Attributes:
        assumes: What story and guide must be like, in a few words.
        is_bound_on: `elbo` where the loss is minus the ELBO in expectation, `iwelbo` where it is
            minus the importance-weighted bound with `num_particles`; else empty.
        has_paths: Whether the guide's draws are differentiable functions of its parameters.
        needs_paths: Whether they must be.
        needs_independence: Whether the particles of a row must be drawn independently of each
            other.
        needs_density: Whether what draws are scored by must be their density: its gradient counts
            as the score of q.
        min_particles: The least `num_particles` that make sense.
        takes_weight: Whether latent terms can be weighed by anything but 1.

    Raises:
        ValueError: If story, guide and data do not fit, or an option does not suit them.
    """

    assumes: ClassVar[str]
    is_bound_on: ClassVar[str] = ""
    needs_paths: ClassVar[bool] = False
    needs_independence: ClassVar[bool] = False
    needs_density: ClassVar[bool] = False
    min_particles: ClassVar[int] = 1
    takes_weight: ClassVar[bool] = True

    def __init__(
        self,
        problem: Problem,
        *,
        num_particles: int = 1,
        beta: float | Mapping[str, float] = 1.0,
    ) -> None:
        super().__init__()
        if num_particles < self.min_particles:
            raise ValueError(
                f"expected num_particles of at least {self.min_particles} for {self.name}, got "
                f"{num_particles}"
            )
        self.problem = problem
        self.story, self.guide = problem.story, problem.guide
        self.sites, self.num_rows = problem.sites, problem.total_rows
        self.num_particles, self.beta = num_particles, beta
        drawn = problem.guide_sites
        self.has_paths = all(site.has_path for site in drawn.values())
        self.kl_weights = KLWeights(self.sites, beta, drawn)
        if not self.takes_weight and not self.kl_weights.is_plain:
            raise ValueError(
                f"expected beta = 1 for {self.name}, got {beta}: it is no bound to be weighed"
            )
        if self.needs_paths:
            self._refuse(lambda site: site.has_path, NO_PATH)
        if self.needs_independence and num_particles > 1:
            self._refuse(lambda site: site.is_independent, NOT_INDEPENDENT)
        if self.needs_density:
            self._refuse(lambda site: site.has_density, NO_DENSITY)
        self.check()

    @abstractmethod
    def forward(self, batch: TensorDict, kl_weight: float = 1.0) -> Tensor:
        """The loss of a batch.

        Arguments:
            batch: Name -> `(B, *event)`.
            kl_weight: Further weight of the latent sites' terms, below 1 during warm-up.

        Returns:
            `()`, in nats per row.
        """

    def forward_captured(self, batch: TensorDict, kl_weight: float | Tensor = 1.0) -> Tensor:
        """As `forward`, by operators of tensors alone, so that a step can be captured."""
        return self(batch, kl_weight)

    def check(self) -> None:
        """Refuse a pair that the objective cannot serve."""

    @property
    def is_elbo(self) -> bool:
        """Whether minus the loss is the plain ELBO in expectation, outside warm-up."""
        adds = getattr(self.guide, "adds_to_loss", False)
        return self.is_bound_on == "elbo" and self.kl_weights.is_plain and not adds

    @property
    def name(self) -> str:
        """What messages and run folders call it: the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def options(self) -> dict[str, Any]:
        """The options that it was made with, by name."""
        return {name: getattr(self, name) for name in options_of(type(self), Objective)}

    def own_state(self) -> TensorDict:
        """What it keeps beside story and guide, such as a baseline: name -> tensor."""
        return {
            k: v for k, v in self.state_dict().items() if not k.startswith(("story.", "guide."))
        }

    def own_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are neither the story's nor the guide's."""
        theirs = {id(p) for m in (self.story, self.guide) for p in m.parameters()}
        return (p for p in self.parameters() if id(p) not in theirs)

    def loss(self, per_row: Tensor, log_global: Tensor) -> Tensor:
        """Minus a bound: mean over the rows, and the global sites' share of one row.

        Arguments:
            per_row: `(B,)` or `(S, B)`, in nats.
            log_global: log p − log q of the global sites, `(S,)`, in nats.
        """
        bound = per_row.mean()
        if self.sites.global_latent:
            bound = bound + log_global.mean() / self.num_rows
        return -bound

    def _refuse(self, is_right: Callable[[GuideSite], bool], message: str) -> None:
        sites = self.problem.guide_sites
        wrong = sorted(name for name, site in sites.items() if not is_right(site))
        if wrong:
            raise ValueError(message.format(name=self.name, sites=wrong))


def with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """The number `value` with the gradient of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())
