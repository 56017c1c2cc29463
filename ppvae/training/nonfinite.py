r"""At which sites and rows a loss stopped being finite."""

__all__ = ["raise_nonfinite"]

from typing import NoReturn

import torch

from ppvae.data import Rows, Stream, iter_chunks
from ppvae.objectives import Objective
from ppvae.story import num_rows_of


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
    found: dict[str, list[int]] = {}
    start = 0
    for piece in iter_chunks(loss_of.story, rows):
        problem = loss_of.problem.on(piece)
        with torch.no_grad(), problem.eval_mode(0):
            drawn = problem.draw(1)
            log_joint = problem.log_joint_by_site(drawn.values)
        for program, parts in (("story", log_joint), ("guide", drawn.by_site)):
            for site, log_prob in parts.items():
                bad = (~torch.isfinite(log_prob[0])).nonzero().flatten()
                name = f"the density of the {program}'s site '{site}'"
                found.setdefault(name, []).extend((start + bad).tolist())
        start += num_rows_of(piece)
    causes = [f"{name} in rows {bad[:5]}" for name, bad in found.items() if bad]
    if loss_is_finite:
        steep = [
            name
            for name, p in loss_of.named_parameters()
            if p.grad is not None and not p.grad.isfinite().all()
        ]
        causes.append(f"parameters {steep[:3]}")
    what = "gradient" if loss_is_finite else "loss"
    raise ValueError(
        f"expected a finite {what}, got NaN or infinity in {when}"
        + (f": {'; '.join(causes)}" if causes else "")
        + "; look at what the story computes there, or try a smaller lr, rescaled data, a "
        "likelihood whose scale is bounded below (rows count within the training rows; the "
        "parameters are as they were before that step)"
    )
