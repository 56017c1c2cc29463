r"""What do the stories make up? A sheet of digits by every image story of the gallery, each trained on its example.

Writes `gallery.png` into the folder that is named: rows of the data, and for each story rows that it generates (chances of ink, mean
shades of grey).
"""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

import ppvae
from ppvae.gallery import example_rows, load_story
from ppvae.plots import image_grid
from ppvae.story import seeded

SEED, COUNT, SHAPE = 0, 16, (8, 8)
STORIES = (
    "vae", "gaussian_vae", "conv_vae", "hierarchical_vae", "mixture_vae", "vamp_vae", "categorical_vae", "vq_vae",
    "semi_supervised_vae", "conditional_vae", "incomplete_vae",
)  # fmt: skip


def made_up(name: str, epochs: int) -> tuple[Tensor, float]:
    """Rows of a trained story, `(COUNT, 8, 8)`, and its ELBO on test rows, in nats per row."""
    train, valid, test = example_rows(name)
    with seeded(SEED):
        story = load_story(name, train.head(200).batch())
        guide = ppvae.guides.build(ppvae.guides.suggest(story, train)[0], story, train)
    ppvae.fit(story, guide, train, val=valid, epochs=epochs, seed=SEED)
    given = {"y": torch.arange(COUNT) % 10 + 0.0} if name == "conditional_vae" else {}
    rows = ppvae.generate(story, COUNT, mean=True, seed=SEED, **given)["x"]
    elbo = ppvae.elbo(story, guide, test, num_particles=20, seed=SEED).mean()
    return rows.reshape(-1, *SHAPE).clamp(0, 1), float(elbo.value)


def main(
    epochs: int = 100, pictures: Path | None = None, stories: tuple[str, ...] = STORIES
) -> dict[str, float]:
    """Train every story and lay out what it makes up; returns test ELBOs in nats per row."""
    rows = example_rows("vae")[2].head(COUNT).batch()["x"]
    sheet, found = {"rows": rows.reshape(-1, *SHAPE)}, {}
    for name in stories:
        start = time.perf_counter()
        sheet[name], found[name] = made_up(name, epochs)
        print(f"{name:<20} ELBO {found[name]:8.2f}   {time.perf_counter() - start:5.0f} s")
    if pictures is not None:
        image_grid(sheet).savefig(pictures / "gallery.png", dpi=80)
    return found


if __name__ == "__main__":
    main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)
