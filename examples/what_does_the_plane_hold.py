r"""What does the plane hold? `vae` with two causes on MNIST: its digits all over the plane, and
where test rows lie on it.

Writes `plane.png` and `plane_of_rows.png` into the folder that is named. Prints how much of log
p(x) two causes leave behind: test ELBOs beside those of the ten causes of a story that is trained
as long.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ppvae
from ppvae.data import Request, Rows, load_request

SEED, BATCH_SIZE, LR, CAUSES = 0, 100, 1e-3, (2, 10)
ROWS_SHOWN = 2000


def trained(train: Rows, latent_dim: int, epochs: int) -> tuple[nn.Module, nn.Module, float]:
    """Story, guide, and the seconds that they took."""
    torch.manual_seed(SEED)
    story = ppvae.stories.load("vae", train.head(100).batch(), latent_dim=latent_dim)
    guide = ppvae.guides.build("mean_field", story, train)
    history = ppvae.fit(story, guide, train, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, seed=SEED)
    return story, guide, history.seconds


def main(
    data: str = "mnist",
    rows: int | None = 20_000,
    epochs: int = 60,
    pictures: Path | None = None,
) -> dict[int, dict[str, Any]]:
    """Train with two causes and with ten; returns test ELBOs in nats per row by number of
    causes."""
    asked = Request(data, rows=rows, labels="all", binarize="static")
    train, test = (load_request(asked, split) for split in ("train", "test"))
    train, digits = (Rows({"x": part.tensors["x"]}) for part in (train, test))
    found = {}
    for latent_dim in CAUSES:
        story, guide, seconds = trained(train, latent_dim, epochs)
        elbo = ppvae.elbo(story, guide, digits, num_particles=20, seed=SEED).mean()
        found[latent_dim] = {"elbo": elbo, "seconds": seconds}
        print(f"{latent_dim:>3} causes   ELBO {elbo}   {seconds:5.0f} s")
        if latent_dim == 2 and pictures is not None:
            walk = ppvae.traverse(story, {"z": ppvae.plots.plane(20)})
            ppvae.plots.image_plane(walk["x"]).savefig(pictures / "plane.png", dpi=80)
            few = digits.head(min(ROWS_SHOWN, len(digits)))
            z = ppvae.embed(story, guide, few, num_particles=20, seed=SEED)["z"].value
            labels = test.tensors["y"][: len(few)].long()
            ppvae.plots.latent_scatter(z, labels).savefig(pictures / "plane_of_rows.png", dpi=80)
    return found


if __name__ == "__main__":
    main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)
