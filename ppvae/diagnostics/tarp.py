r"""TARP: joint calibration by distances to random points.

For each simulated row a reference point is chosen without looking at the truth. If the guide is the posterior, the
rank of the truth's distance to it, among the distances of the guide's draws, is uniform. No density is needed, so
any guide and any kind of site will do. Reference points that depend on the row make the test see what reference
points at random cannot: a guide that ignores the row.
"""

__all__ = ["tarp"]

from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.coverage import Coverage
from ppvae.diagnostics.simulated import Simulated, simulate_pairs
from ppvae.diagnostics.uniformity import Ranks, rank_among
from ppvae.problem.particles import chunks
from ppvae.problem.weights import draw_all
from ppvae.story import TensorDict, num_rows_of, seeded_eval

REFERENCES = ("row", "random")
QUARTILE = 0.6745  # of the standard normal


def tarp(
    story: nn.Module,
    guide: nn.Module,
    data: Any = None,
    *,
    num_simulations: int = 1000,
    num_draws: int = 199,
    references: str = "row",
    seed: int = 0,
) -> Coverage:
    """Tests of accuracy with random points, on rows simulated from the story.

    Latent numbers are put on one scale by the quartiles of their prior draws.

    Arguments:
        story: The story, its latent sites all inside the plate `data`.
        guide: An amortized guide.
        data: As in `sbc`.
        num_simulations: N, rows simulated.
        num_draws: L, draws of the guide for each.
        references: `row` (a random linear map of the row, with noise) or `random` (standard normal points).
        seed: Seed of simulation, reference points and draws.

    Returns:
        The curve, with its band and verdict. Unlike that of `coverage`, its direction does not tell too narrow from
        too wide.

    Raises:
        ValueError: If the story has global latent sites, or `references` is unknown.

    Source:
        P. Lemos, A. Coogan, Y. Hezaveh, L. Perreault-Levasseur (2023). Sampling-based accuracy testing of posterior
        estimators for general inference.
    """
    if references not in REFERENCES:
        raise ValueError(f"expected references among {', '.join(REFERENCES)}; got '{references}'")
    pairs = simulate_pairs(story, guide, num_simulations, data, seed)
    truth = _stacked({k: v[None] for k, v in pairs.truth.items()}, pairs)[0]  # (N, d)
    center, scale = truth.median(0).values, _robust_scale(truth)
    ranks = torch.empty(1, num_simulations, dtype=torch.long)
    with torch.no_grad(), seeded_eval(seed + 1, story, guide):
        points = torch.randn_like(truth)
        if references == "row":
            points = (points + _projected(pairs.rows, truth)) / 2**0.5
        for where, rows in chunks(pairs.rows, guide, num_draws):
            drawn = _stacked(draw_all(story, guide, rows, num_draws, pairs.sites).values, pairs)
            far = _distance((drawn - center) / scale, points[where])  # (L, B)
            true = _distance((truth[where] - center) / scale, points[where])  # (B,)
            ranks[0, where] = rank_among(true, far).cpu()
    return Coverage(Ranks(("distance",), ranks, num_draws), "tarp")


def _stacked(latents: TensorDict, pairs: Simulated) -> Tensor:
    """All latent numbers of a row side by side, `(S, B, d)`."""
    dtype = torch.get_default_dtype()
    parts = [latents[name] for name in pairs.sites.latent]
    parts = [p if p.is_floating_point() else p.to(dtype) for p in parts]
    return torch.cat([p.reshape(*p.shape[:2], -1) for p in parts], -1)


def _robust_scale(values: Tensor) -> Tensor:
    """Half the distance of the quartiles, as of a normal; the standard deviation where they coincide."""
    quartiles = torch.quantile(values, values.new_tensor([0.25, 0.75]), dim=0)
    scale = (quartiles[1] - quartiles[0]) / (2 * QUARTILE)
    scale = torch.where(scale > 0, scale, values.std(0))
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _projected(rows: TensorDict, like: Tensor) -> Tensor:
    """A random linear map of each standardised row, with numbers of unit variance, `(N, d)`."""
    flat = torch.cat([v.reshape(num_rows_of(rows), -1) for v in rows.values()], -1)
    flat = torch.nan_to_num(flat.to(like))
    flat = (flat - flat.mean(0)) / flat.std(0).clamp(min=1e-12)
    projected = flat @ torch.randn(flat.shape[1], like.shape[1], device=like.device).to(like)
    return projected / projected.std(0).clamp(min=1e-12)


def _distance(values: Tensor, points: Tensor) -> Tensor:
    return (values - points).square().sum(-1)
