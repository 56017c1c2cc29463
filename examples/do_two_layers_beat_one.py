r"""Do two layers of causes beat one? And a learned prior a standard normal one? Three stories on MNIST at equal epochs.

Each story is trained on the same rows with the same decoder width and number of epochs: `vae` with one layer of 30 causes, `hierarchical_vae` with
layers of 10 and 20 causes, and of 10 and 30, and the guide `structured`, `vamp_vae` with one layer of 30 causes and a learned prior. log p(x) of test rows is
bounded below by importance sampling from each trained guide. Each story is resumed where it stopped, and written to
`examples/results/do_two_layers_beat_one.json` when it is done. Where a folder is named, rows that the stories make up are pictured.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ppvae
from ppvae.data import Request, load_request
from ppvae.evidence import importance_evidence
from ppvae.gallery import load_story
from ppvae.plots import image_grid
from ppvae.story import seeded

SEED, BATCH_SIZE, LR = 0, 100, 1e-3
RESULTS = Path(__file__).parent / "results" / "do_two_layers_beat_one.json"
RUNS = Path("runs") / "do_two_layers_beat_one"
# Name -> story, its options, and the guide's family.
RIVALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "one layer": ("vae", {"latent_dim": 30}, "mean_field"),
    "two layers": ("hierarchical_vae", {"latent_dims": (10, 20)}, "structured"),
    "ten on top": ("hierarchical_vae", {"latent_dims": (10, 30)}, "structured"),
    "learned prior": ("vamp_vae", {"latent_dim": 30}, "mean_field"),
}


def trained(
    name: str, train: ppvae.data.Rows, epochs: int, runs: Path
) -> tuple[nn.Module, nn.Module, float]:
    """Story and guide of a rival after training, and the seconds that it took; at once where it is done already."""
    story_name, options, family = RIVALS[name]
    with seeded(SEED):
        few = train.head(min(500, len(train))).frozen(0).batch()
        story = load_story(story_name, few, **options)
        guide = ppvae.guides.build(family, story, train)
    folder = runs / name.replace(" ", "_")
    history = ppvae.fit(
        story, guide, train, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, seed=SEED,
        run_dir=folder, resume=folder.is_dir(),
    )  # fmt: skip
    return story, guide, history.seconds


def measured(
    name: str,
    train: ppvae.data.Rows,
    test: ppvae.data.Rows,
    epochs: int,
    particles: int,
    runs: Path,
) -> dict[str, Any]:
    """Train one rival and bound log p(x) of the test rows."""
    story, guide, seconds = trained(name, train, epochs, runs)
    story_name, options, family = RIVALS[name]
    start = time.perf_counter()
    log_w = ppvae.log_weights(story, guide, test, particles, seed=SEED)
    log_p = importance_evidence(log_w)
    weights = sum(p.numel() for p in story.parameters())
    return {
        "story": story_name, "options": options, "guide": family, "weights_of_the_story": weights,
        "elbo": float(log_w.mean()), "log_p": float(log_p.mean().value),
        "std_error": float(log_p.mean().std_error), "training_seconds": round(seconds, 1),
        "test_seconds": round(time.perf_counter() - start, 1),
        "log_p_by_row": [round(v, 3) for v in log_p.value.tolist()],
    }  # fmt: skip


def main(
    data: str = "mnist",
    rows: int | None = 20_000,
    test_rows: int = 1000,
    epochs: int = 20,
    particles: int = 500,
    rivals: tuple[str, ...] = tuple(RIVALS),
    results: Path = RESULTS,
    runs: Path = RUNS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train and measure each rival that the results lack; returns them."""
    train = load_request(Request(data, rows=rows, binarize="dynamic"), "train")
    test = load_request(Request(data, binarize="static"), "test").head(test_rows)
    found: dict[str, Any] = {
        "data": data, "rows": len(train), "seed": SEED, "epochs": epochs, "batch_size": BATCH_SIZE, "lr": LR,
        "test_rows": test_rows, "particles": particles, "torch": torch.__version__, "rivals": {},
    }  # fmt: skip
    if results.exists():
        before = json.loads(results.read_text())
        if any(before[k] != v for k, v in found.items() if k != "rivals"):
            raise ValueError(f"expected the settings of {results}, got others; remove it first")
        found = before
    for name in rivals:
        if name not in found["rivals"]:
            found["rivals"][name] = measured(name, train, test, epochs, particles, runs)
            results.write_text(json.dumps(found))
    if pictures is not None:
        shown = {"rows": test.head(12).batch()["x"]}
        for name in rivals:
            story = trained(name, train, epochs, runs)[0]
            shown[name] = ppvae.generate(story, 12, mean=True, seed=SEED)["x"]
        image_grid(shown).savefig(pictures / "layers_and_priors.png", dpi=100)
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each rival; differences to the first are paired over the rows."""
    lines = ["story            log p(x) >=     gain on the first     ELBO   seconds"]
    first = None
    for name, one in found["rivals"].items():
        log_p = torch.tensor(one["log_p_by_row"])
        gain = "" if first is None else str(ppvae.Estimate.of_draws(log_p - first))
        first = log_p if first is None else first
        lines.append(
            f"{name:<14} {one['log_p']:13.2f} {gain:>21} {one['elbo']:8.2f} {one['training_seconds']:9.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
