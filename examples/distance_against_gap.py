r"""Does the guide that loses fewer nats also lie nearer to the posterior? Three families on the
trained digits VAE.

On 20 test rows, chains of Hamiltonian Monte Carlo give draws of the true posterior of the trained
story. Mean-field, full-rank and IAF guides are fitted to that story, and each climbs to q*, its
family's best for each row. The approximation gap log p(x) − L[q*] is KL(q* || posterior); the
distance of q* from the chains is measured without any density. The two should rank alike any two
families that the gap tells apart. All look at the same rows, so differences are paired over rows.
"""

import json
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from torch import nn

import ppvae
from ppvae.diagnostics import distance_to_reference, reference_posterior

SEED, EPOCHS, ROWS = 0, 100, 20
FAMILIES = ("mean_field", "full_rank", "iaf")
CHAINS, WARMUP, SAMPLES = 8, 300, 2500
DRAWS, PARTICLES = 20_000, 20_000
COLUMNS = {
    "approximation_gap": "approximation gap, nats",
    "sliced_wasserstein": "sliced Wasserstein, sd",
    "accuracy": "classifier accuracy",
}
RESULTS = Path(__file__).parent / "results" / "distance_against_gap.json"


def trained(epochs: int) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The story, trained with the first family and frozen, and a guide of each family fitted to
    it."""
    train = ppvae.data.load("digits", split="train")
    torch.manual_seed(SEED)
    story = ppvae.stories.load("vae", train.batch(slice(100)))
    guides = {name: ppvae.guides.build(name, story, train) for name in FAMILIES}
    for name, guide in guides.items():
        ppvae.fit(story, guide, train, epochs=epochs, seed=SEED, progress=False)
        if name == FAMILIES[0]:
            story.requires_grad_(False)
    return story, guides


def main(
    epochs: int = EPOCHS,
    rows: int = ROWS,
    samples: int = SAMPLES,
    draws: int = DRAWS,
    particles: int = PARTICLES,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Approximation gap and distance of each family's q*, per row."""
    begun = time.perf_counter()
    story, guides = trained(epochs)
    few = {"x": ppvae.data.load("digits", split="test").batch(slice(rows))["x"]}
    start = time.perf_counter()
    reference = reference_posterior(
        story,
        few,
        rows=range(rows),
        num_chains=CHAINS,
        num_warmup=WARMUP,
        num_samples=samples,
        seed=SEED,
    )
    reference_seconds = time.perf_counter() - start
    log_p = ppvae.log_evidence(story, few, method="ais", guide=guides["iaf"], seed=SEED)
    families = {}
    for name, guide in guides.items():
        best = guide.local(few)
        best.optimize(story, seed=SEED)
        gap = log_p - ppvae.elbo(story, best, few, num_particles=particles, seed=SEED + 1)
        away = distance_to_reference(
            best, reference, classifier=QuadraticDiscriminantAnalysis(), num_draws=draws, seed=SEED
        )
        families[name] = {
            "approximation_gap": _rounded(gap.value),
            "sliced_wasserstein": _rounded(away.sliced_wasserstein),
            "accuracy": _rounded(away.accuracy.value),
            "floor": _rounded(away.floor),
        }
    found = {
        "seed": SEED,
        "epochs": epochs,
        "rows": rows,
        "chains": CHAINS,
        "warmup": WARMUP,
        "samples": samples,
        "draws": draws,
        "particles": particles,
        "evidence": "ais from q* of iaf",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - begun, 1),
        "reference_seconds": round(reference_seconds, 1),
        "rhat": round(float(reference.rhat.max()), 4),
        "ess": round(float(reference.ess.min())),
        "divergences": int(reference.divergences.sum()),
        "families": families,
    }
    found["pairs"] = pairs(found)
    results.write_text(json.dumps(found))
    return found


def mean(found: dict[str, Any], name: str, column: str) -> ppvae.Estimate:
    """Mean over the rows; its error is that of the rows."""
    return ppvae.Estimate.of_draws(torch.tensor(found["families"][name][column]))


def pairs(found: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """`one - other` -> paired difference of each column over the rows, with its standard error."""
    made = {}
    for one, other in combinations(found["families"], 2):
        made[f"{one} - {other}"] = {}
        for column in COLUMNS:
            values = (torch.tensor(found["families"][name][column]) for name in (one, other))
            isolated = ppvae.Estimate.of_draws(next(values) - next(values))
            made[f"{one} - {other}"][column] = [float(isolated.value), float(isolated.std_error)]
    return made


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    """Of each pair: do gap and distance name the same family as the better one?"""
    words = {}
    for name, isolated in found["pairs"].items():
        (gap, error), (far, _) = isolated["approximation_gap"], isolated["sliced_wasserstein"]
        tied = abs(gap) < 2 * error
        words[name] = "a tie by the gap" if tied else "agree" if gap * far > 0 else "disagree"
    return words


def table(found: dict[str, Any]) -> str:
    """One line a family, and the paired difference of each two."""
    lines = [
        f"R-hat at most {found['rhat']}, ESS at least {found['ess']}, {found['divergences']} "
        "divergences",
        f"{'q* of':<24}" + "".join(f"{h:>26}" for h in COLUMNS.values()),
    ]
    for name in found["families"]:
        lines.append(f"{name:<24}" + "".join(f"{mean(found, name, c)!s:>26}" for c in COLUMNS))
    for name, word in verdicts(found).items():
        isolated = (f"{v:.3f} ± {e:.3f}" for v, e in found["pairs"][name].values())
        lines.append(f"{name:<24}" + "".join(f"{a:>26}" for a in isolated) + f"   {word}")
    return "\n".join(lines)


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(v), 5) for v in values]


if __name__ == "__main__":
    print(table(main(*map(int, sys.argv[1:2]))))
