r"""New rows from a story, and what it generates at chosen values of its latent sites."""

__all__ = ["generate", "traverse"]

from collections.abc import Mapping

from torch import Tensor, nn

from ppvae.story import TensorDict, simulate
from ppvae.story.conditioning import run_forward
from ppvae.story.validation import parent_sites


def generate(
    story: nn.Module,
    n: int,
    *,
    seed: int | None = None,
    mean: bool = False,
    **covariates: Tensor,
) -> TensorDict:
    """Generate `n` new rows: draws from the story itself.

    Arguments:
        story: The story.
        n: Number of rows.
        seed: Seed of the draw; None draws from the global generator.
        mean: Whether the sites that no other site depends on hold the mean of their distribution in
            place of a draw: the chance of ink in place of a black or white pixel.
        covariates: Name -> `(n, *)`, passed to the story.

    Returns:
        Every site, name -> `(n, *row)`, without gradients; a global site has its own shape.

    Raises:
        ValueError: If `n` is below 1, or `mean` is asked of a site whose distribution has none.
    """
    if not mean or n < 1:
        return simulate(story, n, seed=seed, **covariates)
    kept = parent_sites(story, covariates, n)
    return run_forward(
        story, n, covariates, seed=seed, draws=kept, advice="generate with mean=False"
    )


def traverse(
    story: nn.Module,
    latents: Mapping[str, Tensor],
    *,
    seed: int = 0,
    **covariates: Tensor,
) -> TensorDict:
    """Decode chosen values of some sites: the means of those that no other site depends on.

    Sites that are not chosen, and that others depend on, are drawn from the story, given those that
    are.

    Arguments:
        story: The story.
        latents: Latent site -> its value at each of `n` points, `(n, *row)`;
            `ppvae.plots.plane` gives those of a square.
        seed: Seed of the sites that are drawn.
        covariates: Name -> `(n, *)`, passed to the story.

    Returns:
        Every site, name -> `(n, *row)`, without gradients: as chosen, as drawn, or its mean where
        no other site depends on it.

    Raises:
        ValueError: If no site is chosen, the points differ in number, a name is no site of the
            story, or a mean is asked of a distribution that has none.
    """
    counts = {name: len(value) for name, value in latents.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(
            "expected latent sites with one value a point, all of one number of points; got "
            f"{counts}"
        )
    n = next(iter(counts.values()))
    kept = parent_sites(story, covariates, n) | set(latents)
    return run_forward(
        story, n, covariates,
        seed=seed, values=latents, draws=kept, advice="choose its values too",
    )  # fmt: skip
