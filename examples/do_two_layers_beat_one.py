r"""Do two layers of causes beat one? And a learned prior a standard normal one? Stories on MNIST at
equal epochs.

All are trained on the same rows for the same epochs with the same objective (the ELBO, its latent
terms warmed up), optimiser, batches, encoder and decoder widths: `vae` with one layer of 40 causes;
`hierarchical_vae` with two layers of 20, whose guide `structured` reads the lower layer given the
row and the upper one; to see whether it is the guide that gains, one layer again under the flow
`iaf`; and `vamp_vae`, whose prior is learned. log p(x) of held-out rows is bounded below by
importance sampling from each trained guide, differences are paired over the rows, and the first two
are trained from two seeds. Each is resumed where it stopped, and written to
`examples/results/do_two_layers_beat_one.json` when it is done. Where a folder is named, rows that
the stories make up are pictured.
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
from ppvae.inference import importance_evidence

BATCH_SIZE, LR, SCHEDULE, WARMUP = 100, 1e-3, "cosine", 3
RESULTS = Path(__file__).parent / "results" / "do_two_layers_beat_one.json"
RUNS = Path("runs") / "do_two_layers_beat_one"
# Name -> story, its options, the guide's family, and its options. The first is what the others are
# held against.
RIVALS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "one layer": ("vae", {"latent_dim": 40}, "mean_field", {}),
    "two layers": (
        "hierarchical_vae", {"latent_dims": (20, 20), "width": 200},
        "structured", {"site_hidden": (200,), "context": 64},
    ),
    "freer guide": ("vae", {"latent_dim": 40}, "iaf", {"flow_hidden": (200,), "context": 64}),
    "learned prior": ("vamp_vae", {"latent_dim": 40, "num_components": 50}, "mean_field", {}),
}  # fmt: skip
TWICE = ("one layer", "two layers")  # trained from every seed, the others from the first


def trained(
    name: str, seed: int, train: ppvae.data.Rows, epochs: int, runs: Path
) -> tuple[nn.Module, nn.Module, float]:
    """Story and guide of a rival after training, and the seconds that it took; at once where it is
    done already."""
    story_name, options, family, guide_options = RIVALS[name]
    torch.manual_seed(seed)
    few = train.head(min(500, len(train))).binarize_once(0).batch()
    story = ppvae.stories.load(story_name, few, **options)
    guide = ppvae.guides.build(family, story, train, **guide_options)
    folder = runs / f"{name.replace(' ', '_')}_{seed}"
    history = ppvae.fit(
        story, guide, train, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, schedule=SCHEDULE,
        kl_warmup=min(WARMUP, epochs - 1), seed=seed, run_dir=folder, resume=folder.is_dir(),
    )  # fmt: skip
    return story, guide, history.seconds


def measured(
    story: nn.Module, guide: nn.Module, test: ppvae.data.Rows, particles: int
) -> dict[str, Any]:
    """Bounds of held-out rows, in nats, and the active numbers of each site."""
    start = time.perf_counter()
    log_w = ppvae.log_weights(story, guide, test, particles, seed=0)
    log_p = importance_evidence(log_w)
    active = ppvae.diagnostics.active_units(story, guide, test).active
    return {
        "elbo": float(log_w.mean()), "log_p": float(log_p.mean().value),
        "active_units": {site: int(flags.sum()) for site, flags in active.items()},
        "test_seconds": round(time.perf_counter() - start, 1),
        "log_p_by_row": [round(v, 2) for v in log_p.value.tolist()],
    }  # fmt: skip


def main(
    data: str = "mnist",
    rows: int | None = None,
    test_rows: int = 2000,
    epochs: int = 12,
    particles: int = 500,
    rivals: tuple[str, ...] = tuple(RIVALS),
    seeds: tuple[int, ...] = (0, 1),
    results: Path = RESULTS,
    runs: Path = RUNS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train and measure each rival that the results lack; returns them."""
    train = load_request(Request(data, rows=rows, binarize="dynamic"), "train")
    test = load_request(Request(data, binarize="static"), "test").head(test_rows)
    found: dict[str, Any] = {
        "data": data, "rows": len(train), "epochs": epochs, "batch_size": BATCH_SIZE, "lr": LR,
        "schedule": SCHEDULE, "kl_warmup": WARMUP, "test_rows": test_rows, "particles": particles,
        "torch": torch.__version__, "rivals": {},
    }  # fmt: skip
    if results.exists():
        before = json.loads(results.read_text())
        if any(before.get(k) != v for k, v in found.items() if k != "rivals"):
            raise ValueError(f"expected the settings of {results}, got others; remove it first")
        found = before
    asked = [(n, s) for s in seeds for n in TWICE if n in rivals]
    asked += [(n, seeds[0]) for n in rivals if n not in TWICE]
    for name, seed in asked:
        if str(seed) in found["rivals"].get(name, {}).get("seeds", {}):
            continue
        story, guide, seconds = trained(name, seed, train, epochs, runs)
        story_name, options, family, guide_options = RIVALS[name]
        about = found["rivals"].setdefault(
            name,
            {
                "story": story_name,
                "options": options,
                "guide": family,
                "guide_options": guide_options,
                "weights_of_the_story": sum(p.numel() for p in story.parameters()),
                "weights_of_the_guide": sum(p.numel() for p in guide.parameters()),
                "seeds": {},
            },
        )
        one = {"training_seconds": round(seconds, 1), **measured(story, guide, test, particles)}
        about["seeds"][str(seed)] = one
        results.write_text(json.dumps(found))
    if pictures is not None:
        shown = {"rows": test.head(12).batch()["x"]}
        for name in rivals:
            story = trained(name, seeds[0], train, epochs, runs)[0]
            shown[name] = ppvae.generate(story, 12, mean=True, seed=0)["x"]
        ppvae.plots.image_grid(shown).savefig(pictures / "layers_and_priors.png", dpi=100)
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each rival and seed; differences to the first rival of the same seed are paired
    over the rows."""
    lines = ["story          seed  log p(x) >=    gain on the first     ELBO  seconds"]
    first = next(iter(found["rivals"].values()), {"seeds": {}})["seeds"]
    for name, about in found["rivals"].items():
        for seed, one in about["seeds"].items():
            log_p, against = (torch.tensor(o["log_p_by_row"]) for o in (one, first[seed]))
            gain = "" if one is first[seed] else str(ppvae.Estimate.of_draws(log_p - against))
            lines.append(
                f"{name:<14} {seed:>4} {one['log_p']:12.2f} {gain:>20} {one['elbo']:8.2f} "
                f"{one['training_seconds']:8.0f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
