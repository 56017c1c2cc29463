r"""Can letters be learned? `categorical_vae` on MNIST, its guide trained in four ways, on the same
story and rows.

A word of 20 letters from an alphabet of 10 cannot be summed over, and a draw of letters has no
derivative. The ways round it: the score function with a running average or a neural baseline
(NVIL), unbiased and noisy; `concrete`, which draws between the letters in training (biased, and
less noisy), and its straight-through form (Gumbel-softmax), which rounds the draws. Every way
starts at the same weights and is measured with whole letters on the same test rows: the ELBO, and
log p(x) at least, by importance sampling. Each is resumed where it stopped, and written to
`examples/results/can_letters_be_learned.json` when it is done.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

import ppvae
from ppvae.data import Request, Rows, load_request
from ppvae.inference import importance_evidence

SEED, BATCH_SIZE, LR = 0, 100, 1e-3
RESULTS = Path(__file__).parent / "results" / "can_letters_be_learned.json"
RUNS = Path("runs") / "can_letters_be_learned"
# Name -> guide, its options, objective, its options.
WAYS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "score function, average": ("categorical", {}, "score_function", {"baseline": "average"}),
    "score function, neural": ("categorical", {}, "score_function", {"baseline": "neural"}),
    "Concrete": ("concrete", {}, "trace_elbo", {}),
    "straight-through": ("concrete", {"straight_through": True}, "trace_elbo", {}),
}


def measured(
    name: str, train: Rows, test: Rows, epochs: int, particles: int, runs: Path
) -> dict[str, Any]:
    """Train one way, and bound log p(x) of the test rows with whole letters."""
    family, guide_options, objective, options = WAYS[name]
    torch.manual_seed(SEED)
    story = ppvae.stories.load("categorical_vae", train.head(100).binarize_once(0).batch())
    guide = ppvae.guides.build(family, story, train, **guide_options)
    folder = runs / name.replace(", ", "_").replace(" ", "_")
    history = ppvae.fit(
        story, guide, train, objective=objective, objective_options=options, epochs=epochs,
        batch_size=BATCH_SIZE, lr=LR, seed=SEED, run_dir=folder, resume=folder.is_dir(),
    )  # fmt: skip
    start = time.perf_counter()
    log_w = ppvae.log_weights(story, guide, test, particles, seed=SEED)
    log_p = importance_evidence(log_w).value
    return {
        "guide": family,
        "guide_options": guide_options,
        "objective": objective,
        "objective_options": options,
        "training_seconds": round(history.seconds, 1),
        "test_seconds": round(time.perf_counter() - start, 1),
        "elbo_by_row": [round(v, 3) for v in log_w.mean(0).tolist()],
        "log_p_by_row": [round(v, 3) for v in log_p.tolist()],
    }


def main(
    data: str = "mnist",
    rows: int | None = 20_000,
    test_rows: int = 1000,
    epochs: int = 40,
    particles: int = 500,
    results: Path = RESULTS,
    runs: Path = RUNS,
) -> dict[str, Any]:
    """Train and measure each way that the results lack; returns them."""
    train = load_request(Request(data, rows=rows, binarize="dynamic"), "train")
    test = load_request(Request(data, binarize="static"), "test").head(test_rows)
    found: dict[str, Any] = {
        "data": data,
        "rows": len(train),
        "seed": SEED,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "test_rows": test_rows,
        "particles": particles,
        "torch": torch.__version__,
        "ways": {},
    }
    if results.exists():
        before = json.loads(results.read_text())
        if any(before[k] != v for k, v in found.items() if k != "ways"):
            raise ValueError(f"expected the settings of {results}, got others; remove it first")
        found = before
    for name in WAYS:
        if name not in found["ways"]:
            found["ways"][name] = measured(name, train, test, epochs, particles, runs)
            results.write_text(json.dumps(found))
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each way; gains on the first are paired over the rows."""
    lines = [
        "way                           ELBO   log p(x) >=    gain in ELBO on the first   seconds"
    ]
    first = None
    for name, one in found["ways"].items():
        elbo, log_p = (torch.tensor(one[f"{key}_by_row"]) for key in ("elbo", "log_p"))
        gain = "" if first is None else str(ppvae.Estimate.of_draws(elbo - first))
        first = elbo if first is None else first
        lines.append(
            f"{name:<24} {elbo.mean():9.2f} {log_p.mean():13.2f} {gain:>28} "
            f"{one['training_seconds']:9.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main()))
