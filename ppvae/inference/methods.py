r"""The methods that find log p(x): which suit a problem, and each on rows that fit in memory, from
a guide as it is.
"""

__all__ = [
    "LOWER_BOUNDS",
    "METHODS",
    "check_choice",
    "check_methods",
    "choose_methods",
    "measure_evidence",
    "methods_for",
    "numbers_of_a_row",
    "starts_at_prior",
]

from collections.abc import Sequence

import torch

from ppvae.config import EvidenceConfig
from ppvae.data.chunks import numbers_per_row
from ppvae.inference.ais import AnnealedSampler, Tick
from ppvae.inference.annealing_path import annealing_path
from ppvae.inference.check_finite import check_finite
from ppvae.inference.exact import check_exact, exact_evidence, knows_exact
from ppvae.inference.importance_sampling import importance_sampling
from ppvae.inference.quadrature import (
    NODES,
    check_few_dimensions,
    quadrature_evidence,
    quadrature_numbers,
)
from ppvae.problem import Problem
from ppvae.story import Configurations, TensorDict

METHODS: dict[str, str] = {
    "exact": "the story's own closed form, or the sum over finite discrete sites",
    "iwae": "importance sampling with q* as the proposal",
    "ais": "annealed importance sampling from q* with batched HMC",
    "quadrature": "a grid placed by q*, for at most three latent numbers a row",
}
CHOICES = ("auto", "best", *METHODS)
LOWER_BOUNDS = ("iwae", "ais")


def check_choice(method: str) -> None:
    """Refuse what `EvidenceConfig.method` cannot be.

    Raises:
        ValueError: If it is unknown.
    """
    if method not in CHOICES:
        raise ValueError(f"expected an evidence method among {', '.join(CHOICES)}; got '{method}'")


def choose_methods(problem: Problem, config: EvidenceConfig) -> list[str]:
    """The methods that `config.method` runs on these rows.

    `auto` is `exact` where it is known, else `best`: `iwae`, and `ais` where there is something to
    anneal.

    Raises:
        ValueError: If the method is unknown or does not suit story, guide and rows.
    """
    method = config.method
    check_choice(method)
    if method == "auto":
        method = "exact" if knows_exact(problem) else "best"
    methods = [method]
    if method == "best":
        methods = ["iwae", "ais"] if _is_annealable(problem) else ["iwae"]
    check_methods(methods, problem, config)
    return methods


def methods_for(problem: Problem) -> list[str]:
    """Every method that suits a story and these rows."""
    anneals = _is_annealable(problem)
    suits = {"exact": knows_exact(problem), "iwae": True, "ais": anneals}
    suits["quadrature"] = anneals and problem.unconstrained.dim in NODES
    return [name for name in METHODS if suits[name]]


def check_methods(methods: Sequence[str], problem: Problem, config: EvidenceConfig) -> None:
    """Refuse methods that there are not, or that do not suit story, guide and rows, before anything
    long is begun.

    Raises:
        ValueError: At the first one: naming the sites that do not suit it, or the guide that it
            lacks.
    """
    if not methods:
        raise ValueError(f"expected at least one method among {', '.join(METHODS)}")
    for method in methods:
        if method not in METHODS:
            raise ValueError(
                f"expected evidence methods among {', '.join(METHODS)}; got '{method}'"
            )
        if method == "exact":
            check_exact(problem)
            continue
        if problem.guide is None and not starts_at_prior(method, config):
            raise ValueError(f"method '{method}' needs a guide to start from; pass guide=...")
        problem.check_independent_rows("log evidence per row")
        if method in ("ais", "quadrature"):
            _check_annealable(problem, method)
        if method == "quadrature":
            check_few_dimensions(problem)


def starts_at_prior(method: str, config: EvidenceConfig) -> bool:
    """Whether a method needs no guide because it anneals from the prior."""
    return method == "ais" and config.annealing.start == "prior"


def numbers_of_a_row(methods: Sequence[str], problem: Problem, config: EvidenceConfig) -> int:
    """Numbers that a row takes while it is measured, in all its chains or nodes."""
    numbers = numbers_per_row(problem.batch)
    if "ais" in methods:
        numbers *= config.annealing.num_chains
    if "quadrature" in methods:
        numbers = max(numbers, quadrature_numbers(problem))
    return numbers


def measure_evidence(
    problem: Problem, method: str, config: EvidenceConfig, seed: int, tick: Tick = lambda: None
) -> TensorDict:
    """log p(x) by one method, from a guide as it is, unchecked.

    Arguments:
        problem: Story, rows, and the proposal, or where annealing starts.
        method: A key of `METHODS`.
        config: Particles and annealing.
        seed: Seed of all draws.
        tick: Called at the start, and at each temperature.

    Returns:
        `value` and `std_error`, `(B,)` each, in nats; of `ais` also `acceptance`, `ess` and
        `num_temperatures`.

    Raises:
        ValueError: If an estimate is not finite: naming rows and site.
    """
    tick()
    more: TensorDict = {}
    if method == "exact":
        found = exact_evidence(problem)
    elif method == "ais":
        with problem.eval_mode(seed), torch.no_grad():
            path = annealing_path(config.annealing.start, problem)
            sampler = AnnealedSampler(path, config.annealing, tick)
            chains = sampler.forward()
        found = chains.log_mean()
        num = torch.full_like(chains.ess, len(sampler.tuned.betas) - 1)
        more = {"acceptance": chains.acceptance, "ess": chains.ess, "num_temperatures": num}
    elif method == "quadrature":
        found = quadrature_evidence(problem)
    else:
        found = importance_sampling(problem, config.num_particles, error=config.error, seed=seed)
    check_finite(found.value, problem)
    return {"value": found.value, "std_error": found.std_error, **more}


def _check_annealable(problem: Problem, method: str) -> None:
    """Refuse what gradients cannot move: no continuous site, discrete sites that cannot be summed
    over, or are drawn.

    Raises:
        ValueError: Naming the sites.
    """
    discrete = problem.sites.local_discrete
    if not problem.sites.local_continuous:
        raise ValueError(
            f"expected a continuous latent site for method '{method}', got only the discrete "
            f"{sorted(discrete)}; use method 'exact' if they have few joint values, else 'iwae' "
            "with a guide that draws them"
        )
    if discrete:
        try:
            Configurations(discrete)
        except ValueError as error:
            raise ValueError(
                f"method '{method}' sums discrete sites out: {error}; then use method 'iwae'"
            ) from error
    if getattr(problem.guide, "discrete", None) is not None:
        raise ValueError(
            f"expected a guide that draws continuous sites alone for {method}, which moves along "
            "gradients, got one that draws discrete sites; use iwae"
        )


def _is_annealable(problem: Problem) -> bool:
    try:
        _check_annealable(problem, "ais")
    except ValueError:
        return False
    return True
