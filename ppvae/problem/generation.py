r"""The observed sites for given latent draws: drawn anew, or the means of their distributions."""

__all__ = ["decode", "observed_except", "replicate"]

from collections.abc import Sequence

from ppvae.problem.missing import missing_as
from ppvae.problem.problem import Problem
from ppvae.story import TensorDict


def decode(
    problem: Problem, latents: TensorDict, given: Sequence[str] = (), *, mean: bool = False
) -> TensorDict:
    """The observed sites for given latent draws. No observed value can come back.

    Arguments:
        problem: Story and rows; only the covariates of the rows, and `given`, count.
        latents: Every latent site, name -> `(S, B, *row)`; observed sites among them have the
            values given here.
        given: Observed sites to hold at their data.
        mean: Whether the means of their distributions are wanted, not draws.

    Returns:
        Observed site that is not given -> `(S, B, *row)`.

    Raises:
        ValueError: If `given` names no observed site, or a distribution has no mean.
    """
    names = observed_except(problem, given)
    held = {name: problem.batch[name] for name in given}
    values = problem.program.generate(
        problem.batch, latents, problem.sites, held, means=names if mean else ()
    )
    return {name: values[name] for name in names}


def replicate(problem: Problem, latents: TensorDict, given: Sequence[str] = ()) -> TensorDict:
    """Draw the rows anew, once for each particle; what the data miss is missing here too.

    Arguments and result as for `decode`; observed sites among the latents are left out.
    """
    drawn = decode(problem, latents, given)
    return {k: missing_as(v, problem.batch.get(k)) for k, v in drawn.items() if k not in latents}


def observed_except(problem: Problem, given: Sequence[str]) -> list[str]:
    """Observed sites but those that are held at their data.

    Raises:
        ValueError: If `given` names no observed site.
    """
    observed = problem.sites.observed
    unknown = sorted(set(given) - set(observed))
    if unknown:
        raise ValueError(f"expected `given` among {sorted(observed)}, got {unknown}")
    return [name for name in observed if name not in given]
