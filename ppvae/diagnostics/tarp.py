r"""TARP: joint calibration by distances to random points.

For each simulated row a reference point is chosen without looking at the truth. If the guide is the
posterior, the rank of the truth's distance to it, among the distances of the guide's draws, is
uniform. No density is needed, so any guide and any kind of site will do. Reference points that
depend on the row make the test see what reference points at random cannot: a guide that ignores the
row.
"""

__all__ = ["tarp"]

from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.coverage import Coverage
from ppvae.diagnostics.requirements import Pair
from ppvae.diagnostics.simulated_pairs import simulate_pairs
from ppvae.diagnostics.uniformity import RankStatistics, rank_among
from ppvae.story import TensorDict, num_rows_of

REFERENCES = ("row", "random")
QUARTILE = 0.6745  # of the standard normal


def tarp(
    story: Pair,
    guide: nn.Module | None = None,
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
        story: The story, its latent sites all inside the plate `data` (or a `Problem` of story,
            guide and rows).
        guide: An amortized guide.
        data: As in `sbc`.
        num_simulations: N, rows simulated.
        num_draws: L, draws of the guide for each.
        references: `row` (a random linear map of the row, with noise) or `random` (standard normal
            points).
        seed: Seed of simulation, reference points and draws.

    Returns:
        The curve, with its band and verdict. Unlike that of `coverage`, its direction does not tell
        too narrow from too wide.

    Raises:
        ValueError: If the story has global latent sites, or `references` is unknown.

    Source:
        P. Lemos, A. Coogan, Y. Hezaveh, L. Perreault-Levasseur (2023). Sampling-based accuracy
        testing of posterior estimators for general inference.
    """
    if references not in REFERENCES:
        raise ValueError(f"expected references among {', '.join(REFERENCES)}; got '{references}'")
    pairs = simulate_pairs(story, guide, data, num_simulations, seed)
    names = list(pairs.problem.sites.latent)
    truth = _stack({name: pairs.truth[name][None] for name in names})[0]  # (N, d)
    center, scale = truth.median(0).values, _robust_scale(truth)
    ranks = torch.empty(1, num_simulations, dtype=torch.long)
    with torch.no_grad(), pairs.problem.eval_mode(seed + 1):
        points = torch.randn_like(truth)
        if references == "row":
            points = (points + _project(pairs.problem.batch, truth)) / 2**0.5
        for rows, piece, _ in pairs.pieces(num_draws):
            drawn = piece.draw_all(num_draws).values
            draws = _stack({name: drawn[name] for name in names})  # (L, B, d)
            of_draws = _distance((draws - center) / scale, points[rows])  # (L, B)
            of_truth = _distance((truth[rows] - center) / scale, points[rows])  # (B,)
            ranks[0, rows] = rank_among(of_truth, of_draws).cpu()
    return Coverage(RankStatistics(("distance",), ranks, num_draws), "tarp")


def _stack(latents: TensorDict) -> Tensor:
    """All latent numbers of a row side by side, `(S, B, d)`."""
    dtype = torch.get_default_dtype()
    parts = [v if v.is_floating_point() else v.to(dtype) for v in latents.values()]
    return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], -1)


def _robust_scale(values: Tensor) -> Tensor:
    """Scale by the quartiles, as of a normal; by the sd where they coincide."""
    quartiles = torch.quantile(values, values.new_tensor([0.25, 0.75]), dim=0)
    scale = (quartiles[1] - quartiles[0]) / (2 * QUARTILE)
    scale = torch.where(scale > 0, scale, values.std(0))
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _project(rows: TensorDict, like: Tensor) -> Tensor:
    """A random linear map of each standardised row, with numbers of unit variance, `(N, d)`."""
    flat = torch.cat([v.reshape(num_rows_of(rows), -1) for v in rows.values()], -1)
    flat = torch.nan_to_num(flat.to(like))
    flat = (flat - flat.mean(0)) / flat.std(0).clamp(min=1e-12)
    projected = flat @ torch.randn(flat.shape[1], like.shape[1], device=like.device).to(like)
    return projected / projected.std(0).clamp(min=1e-12)


def _distance(values: Tensor, points: Tensor) -> Tensor:
    return (values - points).square().sum(-1)
