r"""How far a guide lies from a reference: moments, sliced Wasserstein, a classifier."""

__all__ = ["Distance", "distance_to_reference"]

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ppvae.diagnostics.finding import Finding, Verdict
from ppvae.diagnostics.reference import Reference
from ppvae.estimate import Estimate
from ppvae.result import Result

NUM_DIRECTIONS = 100
NUM_FOLDS = 5
GOOD_ACCURACY = 0.6


@dataclass(frozen=True)
class Distance(Result):
    """Distances of guide and reference on the real line, where `biject_to` puts the latent sites.

    Arguments:
        mean_error: Mean of the guide less that of the reference, over the reference's standard
            deviation, `(B, d)`.
        log_scale_error: Log ratio of the standard deviations, guide over reference, `(B, d)`; below
            0 too narrow.
        sliced_wasserstein: `(B,)`: root mean square distance that the guide's draws must move along
            random directions, in standard deviations of the reference.
        floor: The same between two halves of the reference, `(B,)`: what sampling alone gives,
            somewhat more as they are halves.
        accuracy: Cross-validated accuracy of a classifier that tells guide from reference, `(B,)`;
            0.5 if it cannot.
    """

    mean_error: Tensor
    log_scale_error: Tensor
    sliced_wasserstein: Tensor
    floor: Tensor
    accuracy: Estimate

    @property
    def verdict(self) -> Verdict:
        """`fail` if a classifier is right in more than 60 % of cases, `warn` if on some rows."""
        if float(self.accuracy.value.mean()) > GOOD_ACCURACY:
            return "fail"
        sure = self.accuracy.value - 2 * self.accuracy.std_error > GOOD_ACCURACY
        return "warn" if bool(sure.any()) else "pass"

    @property
    def findings(self) -> tuple[Finding]:
        """Accuracy of the classifier, mean over the rows."""
        worst = int(self.accuracy.value.argmax())
        shift = float(self.mean_error.square().mean().sqrt())
        scale = float(self.log_scale_error.mean().exp())
        advice = (
            f"worst row {worst}; means off by {shift:.2f} sd, scale {scale:.2f} of the "
            "reference's: try a larger family, or guide.local for these rows"
        )
        name, bar = "classifier against reference, accuracy", f"<= {GOOD_ACCURACY}, 0.5 is best"
        return (Finding.of(name, self.accuracy.mean(), bar, self.verdict, advice),)


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
        ValueError: If fewer than ten draws are asked for, or the guide does not fit the reference's
            story.

    Source:
        N. Bonneel, J. Rabin, G. Peyré, H. Pfister (2015). Sliced and Radon Wasserstein barycenters
        of measures.
        D. Lopez-Paz, M. Oquab (2017). Revisiting classifier two-sample tests.
    """
    reference_draws = reference.u.flatten(0, 1).double()
    num_draws = min(num_draws, len(reference_draws))
    if num_draws < 2 * NUM_FOLDS:
        raise ValueError(f"expected at least {2 * NUM_FOLDS} draws to compare, got {num_draws}")
    problem = reference.problem.with_guide(guide)
    with torch.no_grad(), problem.eval_mode(seed):
        drawn = problem.draw(num_draws).values
        guide_draws = problem.unconstrained.flatten(drawn).double()
        center, scale = reference_draws.mean(0), reference_draws.std(0).clamp(min=1e-12)
        order = torch.randperm(len(reference_draws))
        guide_draws = (guide_draws - center) / scale  # (S, B, d)
        reference_draws = ((reference_draws - center) / scale)[order[:num_draws]]
        directions = torch.randn(NUM_DIRECTIONS, guide_draws.shape[-1]).to(guide_draws)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        half = num_draws // 2
        halves = reference_draws[:half], reference_draws[half : 2 * half]
        return Distance(
            mean_error=guide_draws.mean(0),
            log_scale_error=guide_draws.std(0).log(),
            sliced_wasserstein=sliced_wasserstein(guide_draws, reference_draws, directions),
            floor=sliced_wasserstein(*halves, directions),
            accuracy=_classifier_accuracy(guide_draws, reference_draws, classifier, seed),
        )


def sliced_wasserstein(draws: Tensor, others: Tensor, directions: Tensor) -> Tensor:
    """RMS over directions `(D, d)` of the 2-Wasserstein distance, `(S, B, d)` to `(B,)`."""
    one, other = ((v @ directions.T).sort(0).values for v in (draws, others))
    return (one - other).square().mean((0, 2)).sqrt()


def _classifier_accuracy(draws: Tensor, others: Tensor, classifier: Any, seed: int) -> Estimate:
    """Accuracy on rows that the classifier was not trained on, `(B,)`, with its binomial error."""
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    classifier = _small_network(draws.shape[-1], seed) if classifier is None else classifier
    both = torch.cat([draws, others]).cpu().numpy()
    labels = [0] * len(draws) + [1] * len(others)
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
    accuracies = []
    with warnings.catch_warnings():
        # A classifier that stops early is a weaker test, not an error.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for row in range(draws.shape[1]):
            scores = cross_val_score(clone(classifier), both[:, row], labels, cv=folds)
            accuracies.append(float(scores.mean()))
    accuracy = torch.tensor(accuracies, dtype=torch.float64)
    return Estimate(accuracy, (accuracy * (1 - accuracy) / len(labels)).clamp(min=1e-12).sqrt())


def _small_network(dim: int, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    network = MLPClassifier(
        (10 * dim, 10 * dim), max_iter=200, early_stopping=True, random_state=seed
    )
    return make_pipeline(StandardScaler(), network)
