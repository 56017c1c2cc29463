r"""Does a tighter bound train a better story? IWAE with k = 1, 5 and 50 particles on MNIST, at
equal epochs.

The protocol of the IWAE paper, reduced: 784-200-200-50 with tanh, pixels drawn anew at every pass,
batches of 100, fewer epochs. Each k is resumed where it stopped (`runs/iwae_on_mnist/k_*`), and
written to `examples/results/iwae_on_mnist.json` when it is done.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ppvae
from ppvae.inference import importance_evidence
from ppvae.nets import MLP

SEED, EPOCHS, BATCH_SIZE, LR = 0, 12, 100, 1e-3
PARTICLES, TEST_ROWS, TEST_PARTICLES = (1, 5, 50), 1000, 5000
SETTINGS = ("seed", "epochs", "batch_size", "lr", "train_rows", "test_rows", "test_particles")
RESULTS = Path(__file__).parent / "results" / "iwae_on_mnist.json"
RUNS = Path("runs") / "iwae_on_mnist"


def pair(rows: ppvae.data.Rows) -> tuple[nn.Module, nn.Module]:
    """The paper's networks, the same start for every k."""
    few = rows.batch(slice(100))
    num_pixels = few["x"].shape[1]
    torch.manual_seed(SEED)
    story = ppvae.stories.load("vae", few, latent_dim=50)
    story.decoder = MLP(50, num_pixels, activation=nn.Tanh)
    encoder = MLP(num_pixels, 200, (200,), activation=nn.Tanh, activate_last=True)
    return story, ppvae.guides.build("mean_field", story, rows, encoder=encoder)


def trained(
    k: int, rows: ppvae.data.Rows, epochs: int, runs: Path
) -> tuple[nn.Module, nn.Module, float]:
    """Story and guide after training with k particles, and the seconds that it took."""
    story, guide = pair(rows)
    folder = runs / f"k_{k}"
    history = ppvae.fit(
        story, guide, rows, objective="iwae", num_particles=k, epochs=epochs, batch_size=BATCH_SIZE,
        lr=LR, seed=SEED, run_dir=folder, resume=folder.is_dir(),
    )  # fmt: skip
    return story, guide, history.seconds


def main(
    epochs: int = EPOCHS,
    test_rows: int = TEST_ROWS,
    test_particles: int = TEST_PARTICLES,
    particles: tuple[int, ...] = PARTICLES,
    data: str = "mnist",
    results: Path = RESULTS,
    runs: Path = RUNS,
) -> dict[str, Any]:
    """Train and measure each k that the results lack; returns them."""
    train = ppvae.data.load(data, split="train", binarize="dynamic")
    test = ppvae.data.load(data, split="test", binarize="dynamic").head(test_rows)
    found: dict[str, Any] = {
        "seed": SEED,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "train_rows": len(train),
        "test_rows": test_rows,
        "test_particles": test_particles,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "k": {},
    }
    if results.exists():
        before = json.loads(results.read_text())
        if any(before[key] != found[key] for key in SETTINGS):
            raise ValueError(
                f"expected the settings of {results}, got others; remove it to begin anew"
            )
        found["k"] = before["k"]
    for k in particles:
        if str(k) in found["k"]:
            continue
        story, guide, seconds = trained(k, train, epochs, runs)
        start = time.perf_counter()
        log_w = ppvae.log_weights(story, guide, test, test_particles, seed=SEED)
        log_p = importance_evidence(log_w)
        found["k"][str(k)] = {
            "log_p": float(log_p.mean().value),
            "std_error": float(log_p.mean().std_error),
            "elbo": float(log_w.mean()),
            "training_seconds": round(seconds, 1),
            "test_seconds": round(time.perf_counter() - start, 1),
            "log_p_by_row": [round(v, 3) for v in log_p.value.tolist()],
        }
        results.write_text(json.dumps(found))
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each k; differences to the one before are paired over the rows."""
    lines = ["  k   log p(x) >=  gain on the k before     ELBO   seconds"]
    before = None
    for k, one in found["k"].items():
        log_p = torch.tensor(one["log_p_by_row"])
        gain = "" if before is None else str(ppvae.Estimate.of_draws(log_p - before))
        before = log_p
        lines.append(
            f"{k:>3}   {one['log_p']:11.2f}  {gain:>20}  {one['elbo']:7.2f}  "
            f"{one['training_seconds']:8.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(*map(int, sys.argv[1:2]))))
