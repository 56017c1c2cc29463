r"""What do the stories make up? A sheet of digits by every image story of the gallery, each trained
on MNIST for as long.

Writes `gallery.png` into the folder that is named. Above stand rows of the data; then for each
story, on the left, the same rows encoded and decoded again, and on the right rows that it makes up
(chances of ink, mean shades of grey). `incomplete_vae` sees half of the pixels only,
`semi_supervised_vae` a label on 100 rows, `conditional_vae` all labels: it is asked for the digits
in turn.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ppvae
from ppvae.data import load_request, parse_request
from ppvae.stories import example_of, example_rows

SEED, COUNT, LR = 0, 9, 1e-3
RESULTS = Path(__file__).parent / "results" / "what_do_the_stories_make_up.json"
STORIES = (
    "vae",
    "gaussian_vae",
    "conv_vae",
    "hierarchical_vae",
    "mixture_vae",
    "vamp_vae",
    "categorical_vae",
    "vq_vae",
    "semi_supervised_vae",
    "conditional_vae",
    "incomplete_vae",
)
GUIDES = {"categorical_vae": "concrete"}  # in place of the first that suits


def told(name: str, data: str, rows: int, epochs: int) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Test rows told again and rows made up, `(COUNT, H, W)` each, by a trained story; its ELBO in
    nats per row, and seconds."""
    asked = example_of(name).replace("digits", data)
    train, _, test = example_rows(name, f"{asked}:rows={rows}")
    torch.manual_seed(SEED)
    story = ppvae.stories.load(name, train.head(min(200, len(train))).binarize_once(0).batch())
    family = GUIDES.get(name) or ppvae.guides.suggest(story, train)[0]
    guide = ppvae.guides.build(family, story, train)
    history = ppvae.fit(story, guide, train, epochs=epochs, lr=LR, seed=SEED)
    few, given = test.head(COUNT), {}
    if name == "conditional_vae":
        given = {"y": torch.arange(COUNT) % 10 + 0.0}
    held = ["y"] if name == "semi_supervised_vae" else []  # missing: drawn from p(y | x, z)
    again = ppvae.reconstruct(story, guide, few, given=held, num_particles=10, seed=SEED)["x"]
    new = ppvae.generate(story, COUNT, mean=True, seed=SEED, **given)["x"]
    elbo = ppvae.elbo(story, guide, test, num_particles=20, seed=SEED).mean()
    numbers = {"elbo": float(elbo.value), "seconds": round(history.seconds, 1)}
    return as_pictures(again), as_pictures(new), numbers


def as_pictures(x: Tensor) -> Tensor:
    """Pixels `(COUNT, *)` as square pictures of one channel."""
    side = round(x[0].numel() ** 0.5)
    return x.reshape(-1, side, side).clamp(0, 1)


def strip(left: Tensor, right: Tensor) -> Tensor:
    """Two groups of pictures with a white one between."""
    return torch.cat([left, torch.ones_like(left[:1]), right])


def main(
    data: str = "mnist",
    rows: int = 10_000,
    epochs: int = 15,
    stories: tuple[str, ...] = STORIES,
    results: Path | None = RESULTS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train every story and lay out what it makes up; returns ELBOs of test rows in nats per
    row."""
    grey = load_request(parse_request(f"{data}:binarize=none"), "test").tensors["x"]
    shown = as_pictures(grey[: 2 * COUNT])
    sheet = {"rows": strip(shown[:COUNT], shown[COUNT:])}
    found: dict[str, Any] = {
        "data": data,
        "rows": rows,
        "epochs": epochs,
        "lr": LR,
        "seed": SEED,
        "torch": torch.__version__,
        "stories": {},
    }
    for name in stories:
        again, new, found["stories"][name] = told(name, data, rows, epochs)
        sheet[name] = strip(again, new)
        print(name, found["stories"][name], flush=True)
        if pictures is not None:
            ppvae.plots.image_grid(sheet).savefig(pictures / "gallery.png", dpi=70)
        if results is not None:
            results.write_text(json.dumps(found))
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each story; densities and chances of different data are not comparable."""
    lines = [f"{found['data']}, {found['rows']} rows, {found['epochs']} epochs: ELBO of test rows"]
    for name, one in found["stories"].items():
        lines.append(f"  {name:<20} {one['elbo']:9.2f}   {one['seconds']:5.0f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
