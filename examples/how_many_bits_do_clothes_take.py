r"""How many bits do clothes take? `conv_vae` on Fashion-MNIST, in bits per dimension, against
simpler stories.

All rivals give the 256 levels of each pixel chances, so their numbers are code lengths: 8 bits a
pixel where all levels are alike. `pixels alone` knows how often each level was seen at each pixel
and nothing of the others (one count added to each): no story of independent pixels does better,
whatever its likelihood. `linear decoder` is `conv_vae` with one linear map in place of the
convolutions, factor analysis with the same likelihood; its guide has the same encoder. log p(x) of
test rows is bounded below by importance sampling from the trained guide, so bits are bounded above.
Each story is resumed where it stopped, and written to
`examples/results/how_many_bits_do_clothes_take.json` when it is done. Where a folder is named,
clothes, their reconstructions and clothes that the stories make up are pictured.
"""

import json
import sys
import time
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ppvae
from ppvae.data import Request, Rows, load_request
from ppvae.inference import importance_evidence

SEED, BATCH_SIZE, LR, LATENT = 0, 100, 2e-3, 32
LEVELS, SHOWN = 256, 14
RESULTS = Path(__file__).parent / "results" / "how_many_bits_do_clothes_take.json"
RUNS = Path("runs") / "how_many_bits_do_clothes_take"
RIVALS = ("pixels alone", "linear decoder", "conv_vae")


def pixels_alone(train: Tensor, test: Tensor) -> Tensor:
    """log p(x) of test rows in nats, `(B,)`, by counts of each level at each pixel, one added to
    each."""
    shape = (train[0].numel(), LEVELS)
    index = (train.flatten(1) * (LEVELS - 1)).round().long().T  # (P, N)
    counts = torch.ones(shape).scatter_add_(1, index, torch.ones(index.shape))
    log_share = (counts / counts.sum(1, keepdim=True)).log()
    seen = (test.flatten(1) * (LEVELS - 1)).round().long().T
    return log_share.gather(1, seen).sum(0)


def made(name: str, train: Rows) -> tuple[Any, nn.Module]:
    """An untrained story and its guide."""
    torch.manual_seed(SEED)
    story: Any = ppvae.stories.load(
        "conv_vae", train.head(100).batch(), latent_dim=LATENT, levels=LEVELS
    )
    if name == "linear decoder":
        both = (2 * story.shape[0], *story.shape[1:])  # a location and a scale at each value
        flat = nn.Linear(LATENT, torch.Size(both).numel())
        story.decoder = nn.Sequential(flat, nn.Unflatten(-1, both))
    return story, ppvae.guides.build("mean_field", story, train)


def trained(name: str, train: Rows, epochs: int, runs: Path) -> tuple[Any, nn.Module, float]:
    """Story and guide after training, and the seconds that it took; at once where it is done
    already."""
    story, guide = made(name, train)
    folder = runs / name.replace(" ", "_")
    history = ppvae.fit(
        story, guide, train, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, seed=SEED,
        run_dir=folder, resume=folder.is_dir(),
    )  # fmt: skip
    return story, guide, history.seconds


def measured(
    name: str, train: Rows, test: Rows, epochs: int, particles: int, runs: Path
) -> dict[str, Any]:
    """Bits per dimension of one rival on the test rows."""
    bits = 1 / (test.tensors["x"][0].numel() * log(2))  # of one nat a row
    if name == "pixels alone":
        exact = ppvae.Estimate.of_draws(pixels_alone(train.tensors["x"], test.tensors["x"]))
        return {"bits": -float(exact.value) * bits, "std_error": float(exact.std_error) * bits}
    story, guide, seconds = trained(name, train, epochs, runs)
    start = time.perf_counter()
    log_w = ppvae.log_weights(story, guide, test, particles, seed=SEED)
    log_p = importance_evidence(log_w).mean()
    return {
        "bits": -float(log_p.value) * bits,
        "std_error": float(log_p.std_error) * bits,
        "bits_by_elbo": -float(log_w.mean()) * bits,
        "weights_of_the_story": sum(p.numel() for p in story.parameters()),
        "training_seconds": round(seconds, 1),
        "test_seconds": round(time.perf_counter() - start, 1),
    }


def pictured(train: Rows, test: Rows, epochs: int, runs: Path) -> dict[str, Tensor]:
    """Test rows, what they are decoded to again, and what each story makes up."""
    few = test.head(SHOWN)
    shown = {"rows": few.batch()["x"]}
    for name in RIVALS[1:]:
        story, guide, _ = trained(name, train, epochs, runs)
        shown[f"{name}, again"] = ppvae.reconstruct(story, guide, few, seed=SEED)["x"]
        shown[f"{name}, new"] = ppvae.generate(story, SHOWN, mean=True, seed=SEED)["x"]
    return shown


def main(
    data: str = "fashion_mnist",
    rows: int | None = None,
    test_rows: int = 1000,
    epochs: int = 10,
    particles: int = 100,
    results: Path = RESULTS,
    runs: Path = RUNS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train and measure each rival that the results lack; returns them."""
    asked = Request(data, rows=rows, images=True, binarize="none")
    train, test = load_request(asked, "train"), load_request(asked, "test").head(test_rows)
    found: dict[str, Any] = {
        "data": data,
        "rows": len(train),
        "test_rows": len(test),
        "seed": SEED,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "latent_dim": LATENT,
        "particles": particles,
        "torch": torch.__version__,
        "rivals": {},
    }
    if results.exists():
        before = json.loads(results.read_text())
        if any(before[k] != v for k, v in found.items() if k != "rivals"):
            raise ValueError(f"expected the settings of {results}, got others; remove it first")
        found = before
    for name in RIVALS:
        if name not in found["rivals"]:
            found["rivals"][name] = measured(name, train, test, epochs, particles, runs)
            results.write_text(json.dumps(found))
    if pictures is not None:
        ppvae.plots.image_grid(pictured(train, test, epochs, runs)).savefig(
            pictures / "clothes.png", dpi=90
        )
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each rival, fewer bits are better."""
    lines = [f"{found['data']}, {found['test_rows']} test rows: bits per dimension, at most"]
    for name, one in found["rivals"].items():
        lines.append(f"  {name:<15} {one['bits']:.3f} ± {one['std_error']:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
