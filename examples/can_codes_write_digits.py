r"""Can codes write digits? `vq_vae` on MNIST: sentences of codes, and the grammar that writes new ones.

The guide `vector_quantized` gives each picture the nearest codes; the story's grammar learns which sentences occur. Written down are the
ELBO of test pictures (the guide is certain of its codes, so it is log p(x, codes)), the share of codes in use, and the ELBO with a grammar
that holds all sentences for alike. Writes `examples/results/can_codes_write_digits.json` and, where a folder is named, a picture: test
digits, their reconstructions, and digits written by the grammar.
"""

import json
import sys
from math import log
from pathlib import Path
from typing import Any

import torch

import ppvae
from ppvae.data import Request, load_request
from ppvae.gallery import load_story
from ppvae.plots import image_grid
from ppvae.story import LogJoint, measuring, seeded
from ppvae.weights import check_pair, draw

SEED = 0
RESULTS = Path(__file__).parent / "results" / "can_codes_write_digits.json"


def main(
    data: str = "mnist",
    rows: int | None = 20_000,
    test_rows: int = 1000,
    epochs: int = 25,
    results: Path | None = RESULTS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train, measure on test pictures, and write some new ones."""
    train = load_request(Request(data, rows=rows), "train")
    test = load_request(Request(data), "test").head(test_rows)
    with seeded(SEED):
        story: Any = load_story("vq_vae", train.head(100).batch())
        guide = ppvae.guides.build("vector_quantized", story, train)
    history = ppvae.fit(story, guide, train, epochs=epochs, seed=SEED)
    batch = test.batch()
    sites = check_pair(story, guide, batch)
    with torch.no_grad(), measuring(SEED, story, guide):
        codes = draw(guide, batch, 1, sites).values
        by_site = LogJoint(story, batch, sites).by_site(codes)
    places, num_codes = story.shape
    log_x, log_codes = float(by_site["x"].mean()), float(by_site["codes"].mean())
    found = {
        "data": data, "rows": len(train), "test_rows": test_rows, "seed": SEED, "epochs": epochs,
        "places": places, "codes": num_codes, "torch": torch.__version__, "seconds": round(history.seconds, 1),
        "elbo": log_x + log_codes, "log_x_given_codes": log_x, "log_codes": log_codes,
        "log_codes_all_alike": -places * log(num_codes),
        "share_of_codes_in_use": float((codes["codes"].flatten(0, 2).sum(0) > 0).float().mean()),
    }  # fmt: skip
    if results is not None:
        results.write_text(json.dumps(found))
    if pictures is not None:
        few = test.head(12)
        shown = {
            "digits": few.batch()["x"],
            "from codes": ppvae.reconstruct(story, guide, few)["x"],
            "written": ppvae.generate(story, 12, mean=True, seed=SEED)["x"],
            "also": ppvae.generate(story, 12, mean=True, seed=SEED + 1)["x"],
        }
        image_grid(shown).savefig(pictures / "codes.png", dpi=100)
    return found


def table(found: dict[str, Any]) -> str:
    """The ELBO and its parts, nats per picture."""
    return "\n".join(
        [
            f"{found['places']} places, {found['codes']} codes ({found['share_of_codes_in_use']:.0%} in use)",
            f"  log p(x | codes)  {found['log_x_given_codes']:8.2f}",
            f"  log p(codes)      {found['log_codes']:8.2f}   all alike {found['log_codes_all_alike']:.2f}",
            f"  ELBO              {found['elbo']:8.2f}   nats per picture",
        ]
    )


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
