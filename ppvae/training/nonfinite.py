r"""Who is at fault where a loss is not finite."""

__all__ = ["raise_nonfinite"]

from typing import NoReturn

import torch

from ppvae.data import Rows, Stream, iter_chunks
from ppvae.objectives import Objective
from ppvae.problem.weights import draw
from ppvae.story import LogJoint, num_rows_of, seeded_eval, trace_sites


def raise_nonfinite(
    loss_of: Objective, rows: Rows | Stream, when: str, loss_is_finite: bool
) -> NoReturn:
    """Say at which sites and rows the loss stopped being finite, from one pass over all rows.

    Arguments:
        loss_of: The objective, as it was when that came; its gradient too.
        rows: The training rows; those of a loader are counted in the order of a pass.
        when: Which step.
        loss_is_finite: Whether only the gradient is not.

    Raises:
        ValueError: Always.
    """
    story, guide = loss_of.story, loss_of.guide
    found: dict[str, list[int]] = {}
    start = 0
    for piece in iter_chunks(story, rows):
        sites = trace_sites(story, piece)
        with torch.no_grad(), seeded_eval(0, story, guide):
            drawn = draw(guide, piece, 1, sites)
            scored = LogJoint(story, piece, sites).by_site(drawn.values)
        for who, parts in (("story", scored), ("guide", drawn.by_site)):
            for site, log_prob in parts.items():
                bad = (~torch.isfinite(log_prob[0])).nonzero().flatten()
                found.setdefault(f"the {who}'s site '{site}'", []).extend((start + bad).tolist())
        start += num_rows_of(piece)
    culprits = [f"the density of {name} in rows {bad[:5]}" for name, bad in found.items() if bad]
    what = "gradient" if loss_is_finite else "loss"
    if loss_is_finite:
        steep = [
            n
            for n, p in loss_of.named_parameters()
            if p.grad is not None and not p.grad.isfinite().all()
        ]
        culprits.append(f"parameters {steep[:3]}")
    raise ValueError(
        f"expected a finite {what}, got NaN or infinity in {when}"
        + (f": {'; '.join(culprits)}" if culprits else "")
        + "; look at what the story computes there, or try a smaller lr, rescaled data, a likelihood whose scale is bounded below "
        "(rows count within the training rows; the parameters are "
        "as they were before that step)"
    )
