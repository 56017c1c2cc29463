r"""How far a guide's draws lie from a reference posterior: moments, transport, and a classifier's eye."""

__all__ = ["Distance", "distance_to_reference"]

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.reference import Reference
from ppvae.estimate import Estimate
from ppvae.problem.weights import draw
from ppvae.result import Result
from ppvae.story import Flat, seeded_eval

NUM_DIRECTIONS = 100
NUM_FOLDS = 5
GOOD_ACCURACY = 0.6


@dataclass(frozen=True)
class Distance(Result):
    """Distances of guide and reference on the real line, where `Flat` puts the latent sites.

    Arguments:
        mean_error: Mean of the guide less that of the reference, over the reference's standard deviation, `(B, d)`.
        log_scale_error: Log ratio of the standard deviations, guide over reference, `(B, d)`; below 0 too narrow.
        sliced_wasserstein: `(B,)`: root mean square distance that the guide's draws must move along random
            directions, in standard deviations of the reference.
        floor: The same between two halves of the reference, `(B,)`: what sampling alone gives, somewhat more as they are
            halves.
        accuracy: Cross-validated accuracy of a classifier that tells guide from reference, `(B,)`; 0.5 if it cannot.
    """

    mean_error: Tensor
    log_scale_error: Tensor
    sliced_wasserstein: Tensor
    floor: Tensor
    accuracy: Estimate

    @property
    def verdict(self) -> Verdict:
        """`fail` if a classifier is right in more than 60 % of all cases, `warn` if it does so on some rows."""
        if float(self.accuracy.value.mean()) > GOOD_ACCURACY:
            return "fail"
        sure = self.accuracy.value - 2 * self.accuracy.std_error > GOOD_ACCURACY
        return "warn" if bool(sure.any()) else "pass"

    @property
    def finding(self) -> Finding:
        """Accuracy of the classifier, mean over the rows."""
        mean, advice = self.accuracy.mean(), ""
        if self.verdict != "pass":
            worst = int(self.accuracy.value.argmax())
            shift = float(self.mean_error.square().mean().sqrt())
            scale = float(self.log_scale_error.mean().exp())
            advice = (
                f"worst row {worst}; means off by {shift:.2f} sd, scale {scale:.2f} of the reference's: "
                "try a larger family, or guide.local for these rows"
            )
        return Finding(
            "classifier against reference, accuracy", float(mean.value), float(mean.std_error),
            f"<= {GOOD_ACCURACY}, 0.5 is best", self.verdict, advice,
        )  # fmt: skip


def distance_to_reference(
    guide: nn.Module,
    reference: Reference,
    *,
    classifier: Any = None,
    num_draws: int = 1000,
    seed: int = 0,
) -> Distance:
    """Compare the guide with a reference posterior on the reference's rows.

    Arguments:
        guide: The guide; a local one must have been made for the reference's rows.
        reference: Draws from `reference_posterior`; its chains should have converged.
        classifier: A scikit-learn classifier; None: a small neural network on standardised numbers.
        num_draws: Draws of either side that are compared, at most as many as the reference holds.
        seed: Seed of draws, directions and folds.

    Returns:
        The distances, row by row.

    Raises:
        ValueError: If fewer than ten draws are asked for, or the guide does not fit the reference's story.

    Source:
        N. Bonneel, J. Rabin, G. Peyré, H. Pfister (2015). Sliced and Radon Wasserstein barycenters of measures.
        D. Lopez-Paz, M. Oquab (2017). Revisiting classifier two-sample tests.
    """
    everything = reference.u.flatten(0, 1)
    num_draws = min(num_draws, len(everything))
    if num_draws < 2 * NUM_FOLDS:
        raise ValueError(f"expected at least {2 * NUM_FOLDS} draws to compare, got {num_draws}")
    flat = Flat(reference.sites.local_continuous)
    with torch.no_grad(), seeded_eval(seed, guide):
        drawn = flat.flatten(
            draw(guide, reference.batch, num_draws, reference.sites).values
        ).double()
        everything = everything.double()
        center, scale = everything.mean(0), everything.std(0).clamp(min=1e-12)
        order = torch.randperm(len(everything))
        ours = (drawn - center) / scale  # (S, B, d)
        theirs = ((everything - center) / scale)[order[:num_draws]]
        directions = torch.randn(NUM_DIRECTIONS, flat.dim).to(ours)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        half = num_draws // 2
        return Distance(
            mean_error=ours.mean(0),
            log_scale_error=ours.std(0).log(),
            sliced_wasserstein=_sliced(ours, theirs, directions),
            floor=_sliced(theirs[:half], theirs[half : 2 * half], directions),
            accuracy=_accuracy(ours, theirs, classifier, seed),
        )


def _sliced(ours: Tensor, theirs: Tensor, directions: Tensor) -> Tensor:
    """Root mean square over directions of the 2-Wasserstein distance along each, `(S, B, d)` -> `(B,)`."""
    one, other = ((v @ directions.T).sort(0).values for v in (ours, theirs))
    return (one - other).square().mean((0, 2)).sqrt()


def _accuracy(ours: Tensor, theirs: Tensor, classifier: Any, seed: int) -> Estimate:
    """Accuracy on rows that the classifier was not trained on, `(B,)`, with its binomial error."""
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dim, num_rows = ours.shape[-1], ours.shape[1]
    if classifier is None:
        hidden = (10 * dim, 10 * dim)
        network = MLPClassifier(hidden, max_iter=200, early_stopping=True, random_state=seed)
        classifier = make_pipeline(StandardScaler(), network)
    both = torch.cat([ours, theirs]).cpu().numpy()
    labels = [0] * len(ours) + [1] * len(theirs)
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    found = []
    with warnings.catch_warnings():
        # A classifier that stops early is a weaker test, not an error.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for row in range(num_rows):
            scores = cross_val_score(clone(classifier), both[:, row], labels, cv=folds)
            found.append(float(scores.mean()))
    accuracy = torch.tensor(found, dtype=torch.float64)
    return Estimate(accuracy, (accuracy * (1 - accuracy) / len(labels)).clamp(min=1e-12).sqrt())
