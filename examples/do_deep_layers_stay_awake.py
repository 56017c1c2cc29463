r"""Do deep layers stay awake? `hierarchical_vae` with four layers on MNIST, under three guides.

The same story, `latent_dims=(5, 10, 15, 20)` with skip connections from every layer to the pixels,
is trained at equal epochs with each guide: `structured` (top-down), `ladder` (top-down, the story's
priors corrected), and `bidirectional` (half of every layer read bottom-up, the rest top-down, after
BIVA). For held-out rows: the ELBO, log p(x) bounded below by importance sampling, differences to
the first guide paired over the rows, and the active numbers of each layer, the topmost first.
Written to `examples/results/do_deep_layers_stay_awake.json`, each guide when it is done.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch

import ppvae
from ppvae.data import Request, load_request
from ppvae.inference import importance_evidence

SEED, BATCH_SIZE, LR, SCHEDULE, WARMUP = 0, 100, 1e-3, "cosine", 3
LATENT_DIMS = (5, 10, 15, 20)
RESULTS = Path(__file__).parent / "results" / "do_deep_layers_stay_awake.json"
GUIDES: dict[str, dict[str, Any]] = {
    "structured": {"site_hidden": (100,), "context": 32},
    "ladder": {},
    "bidirectional": {"path": 100, "step_hidden": (100,), "context": 32},
}


def main(
    data: str = "mnist",
    rows: int | None = 20_000,
    test_rows: int = 1000,
    epochs: int = 10,
    particles: int = 300,
    guides: tuple[str, ...] = tuple(GUIDES),
    results: Path | None = RESULTS,
) -> dict[str, Any]:
    """Train the story anew with each guide, and measure it on held-out rows."""
    train = load_request(Request(data, rows=rows, binarize="dynamic"), "train")
    test = load_request(Request(data, binarize="static"), "test").head(test_rows)
    found: dict[str, Any] = {
        "data": data,
        "rows": len(train),
        "seed": SEED,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "schedule": SCHEDULE,
        "kl_warmup": WARMUP,
        "latent_dims": LATENT_DIMS,
        "test_rows": test_rows,
        "particles": particles,
        "torch": torch.__version__,
        "guides": {},
    }
    for family in guides:
        torch.manual_seed(SEED)
        few = train.head(min(500, len(train))).binarize_once(0).batch()
        story = ppvae.stories.load("hierarchical_vae", few, latent_dims=LATENT_DIMS)
        guide = ppvae.guides.build(family, story, train, **GUIDES[family])
        history = ppvae.fit(
            story, guide, train, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, schedule=SCHEDULE,
            kl_warmup=min(WARMUP, epochs - 1), seed=SEED,
        )  # fmt: skip
        start = time.perf_counter()
        log_w = ppvae.log_weights(story, guide, test, particles, seed=SEED)
        active = ppvae.diagnostics.active_units(story, guide, test).active
        found["guides"][family] = {
            "options": GUIDES[family], "weights": sum(p.numel() for p in guide.parameters()),
            "elbo_by_row": [round(v, 2) for v in log_w.mean(0).tolist()],
            "log_p_by_row": [round(v, 2) for v in importance_evidence(log_w).value.tolist()],
            "active_units": {site: int(flags.sum()) for site, flags in active.items()},
            "training_seconds": round(history.seconds, 1),
            "test_seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip
        if results is not None:
            results.write_text(json.dumps(found))
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each guide; differences to the first are paired over the rows."""
    lines = [
        "guide              ELBO   log p(x) >=   ELBO above first   log p above first   active"
    ]
    first = next(iter(found["guides"].values()))
    for family, one in found["guides"].items():
        means, gains = [], []
        for key in ("elbo_by_row", "log_p_by_row"):
            value, against = torch.tensor(one[key]), torch.tensor(first[key])
            means.append(float(value.mean()))
            gains.append("" if one is first else str(ppvae.Estimate.of_draws(value - against)))
        active = " ".join(
            f"{one['active_units'][f'z_{len(LATENT_DIMS) - i}']}/{dim}"
            for i, dim in enumerate(LATENT_DIMS)
        )
        lines.append(
            f"{family:<14} {means[0]:8.2f} {means[1]:13.2f} {gains[0]:>18} {gains[1]:>19}   "
            f"{active}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main()))
