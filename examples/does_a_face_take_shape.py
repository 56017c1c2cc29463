r"""Does a face take shape? `gaussian_vae` on Frey Face: the ELBO of held-out frames while it is
trained, and pictures.

Writes `examples/results/does_a_face_take_shape.json` and, where a folder is named, pictures: frames
beside their reconstructions, frames that the story makes up, and the plane of two causes of a
smaller story.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

import ppvae
from ppvae.data import Request, load_request

SEED, SHAPE = 0, (28, 20)
RESULTS = Path(__file__).parent / "results" / "does_a_face_take_shape.json"


def trained(train: Any, valid: Any, latent_dim: int, epochs: int) -> tuple[Any, Any, Any]:
    """Story, guide and history."""
    torch.manual_seed(SEED)
    story = ppvae.stories.load("gaussian_vae", train.head(100).batch(), latent_dim=latent_dim)
    guide = ppvae.guides.build("mean_field", story, train)
    return story, guide, ppvae.fit(story, guide, train, val=valid, epochs=epochs, seed=SEED)


def main(
    epochs: int = 200,
    latent_dim: int = 10,
    data: str = "frey_face",
    particles: int = 500,
    results: Path | None = RESULTS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train, and record the ELBO of the validation frames at each epoch and of the test frames at
    the end."""
    train, valid, test = (
        load_request(Request(data, binarize="none"), s) for s in ("train", "valid", "test")
    )
    story, guide, history = trained(train, valid, latent_dim, epochs)
    elbo = ppvae.elbo(story, guide, test, num_particles=100, seed=SEED).mean()
    log_p = ppvae.iwelbo(story, guide, test, num_particles=particles, seed=SEED).mean()
    found = {
        "data": data,
        "rows": len(train),
        "seed": SEED,
        "epochs": epochs,
        "latent_dim": latent_dim,
        "min_scale": story.min_scale,
        "torch": torch.__version__,
        "seconds": round(history.seconds, 1),
        "valid_elbo": [round(r["val_elbo"], 2) for r in history.records],
        "test_elbo": float(elbo.value),
        "test_elbo_std_error": float(elbo.std_error),
        f"test_iwelbo_{particles}": float(log_p.value),
    }
    if results is not None:
        results.write_text(json.dumps(found))
    if pictures is not None:
        few = test.head(12)
        shown = {
            "frames": few.tensors["x"],
            "filled in": ppvae.reconstruct(story, guide, few, num_particles=20)["x"],
            "made up": ppvae.generate(story, 12, mean=True, seed=SEED)["x"],
        }
        shown = {k: v.reshape(-1, *SHAPE).clamp(0, 1) for k, v in shown.items()}
        ppvae.plots.image_grid(shown).savefig(pictures / "frey_face.png", dpi=100)
        walk = ppvae.traverse(trained(train, valid, 2, epochs)[0], {"z": ppvae.plots.plane(9, 0.9)})
        sheet = ppvae.plots.image_plane(walk["x"].clamp(0, 1), SHAPE)
        sheet.savefig(pictures / "frey_face_plane.png", dpi=90)
    return found


def table(found: dict[str, Any]) -> str:
    """The ELBO of validation frames at some epochs."""
    said = found["valid_elbo"]
    shown = sorted({0, len(said) // 8, len(said) // 4, len(said) // 2, len(said) - 1})
    lines = [f"  epoch {i + 1:>4}   {said[i]:9.2f}" for i in shown]
    lines.insert(0, f"ELBO of held-out frames of {found['data']}, nats per frame")
    lines.append(f"  test        {found['test_elbo']:9.2f} ± {found['test_elbo_std_error']:.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
