r"""Can causes fill the holes? Half of the pixels of each frame of Frey Face hidden, and filled in
again.

`incomplete_vae` is trained on frames of which half the pixels are missing, in training too: it
never sees a whole frame. Holes of test frames are filled with the mean of draws from p(missing |
causes), the causes drawn from the guide, and with the mean of the pixel over the training frames.
Calibration: the share of hidden pixels that lie in the central 90 % of the draws. Writes
`examples/results/can_causes_fill_the_holes.json`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ppvae
from ppvae.data import Request, load_request

SEED, LEVEL = 0, 0.9
RESULTS = Path(__file__).parent / "results" / "can_causes_fill_the_holes.json"


def draws(story: Any, guide: Any, x: Tensor, num_draws: int) -> Tensor:
    """Filled rows, `(S, B, P)`: each with causes of its own."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        z = guide.posterior({"x": x}).sample((num_draws,))
        return story.numbers(z).sample()


def main(
    data: str = "frey_face",
    missing: float = 0.5,
    epochs: int = 200,
    latent_dim: int = 10,
    num_draws: int = 400,
    results: Path | None = RESULTS,
) -> dict[str, Any]:
    """Train on frames with holes, fill those of the test frames; returns errors and coverage."""
    asked = Request(data, missing=missing, binarize="none")
    train, valid, test = (load_request(asked, s) for s in ("train", "valid", "test"))
    whole = load_request(Request(data, binarize="none"), "test").tensors["x"]
    torch.manual_seed(SEED)
    story = ppvae.stories.load("incomplete_vae", train.head(100).batch(), latent_dim=latent_dim)
    guide = ppvae.guides.build("mean_field", story, train)
    start = time.perf_counter()
    ppvae.fit(story, guide, train, val=valid, epochs=epochs, seed=SEED)
    seconds = time.perf_counter() - start
    x = test.tensors["x"]
    hidden, filled = x.isnan(), draws(story, guide, x, num_draws)
    usual = train.tensors["x"].nanmean(0).expand_as(x)
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = (torch.quantile(filled, float(t), dim=0) for t in tails)
    inside = ((low <= whole) & (whole <= high)).double()
    by_row = (inside * hidden).sum(1) / hidden.sum(1)
    found = {
        "data": data,
        "missing": missing,
        "rows": len(train),
        "test_rows": len(x),
        "seed": SEED,
        "epochs": epochs,
        "latent_dim": latent_dim,
        "draws": num_draws,
        "level": LEVEL,
        "torch": torch.__version__,
        "seconds": round(seconds, 1),
        "error": rms(filled.mean(0) - whole, hidden),
        "error_of_means": rms(usual - whole, hidden),
        "coverage": float(by_row.mean()),
        "coverage_std_error": float(by_row.std() / len(x) ** 0.5),
    }
    if results is not None:
        results.write_text(json.dumps(found))
    return found


def rms(difference: Tensor, where: Tensor) -> float:
    """Root mean square over the marked entries."""
    return float(difference[where].square().mean().sqrt())


def table(found: dict[str, Any]) -> str:
    """Errors in shares of the whole range of grey, and coverage."""
    return "\n".join(
        [
            f"{found['missing']:.0%} of the pixels hidden, {found['test_rows']} test rows of "
            f"{found['data']}",
            f"  root mean square error  {found['error']:.4f}   filled with means "
            f"{found['error_of_means']:.4f}",
            f"  in the central {found['level']:.0%}      {found['coverage']:.1%} ± "
            f"{found['coverage_std_error']:.1%}",
        ]
    )


if __name__ == "__main__":
    print(table(main(*sys.argv[1:2])))
