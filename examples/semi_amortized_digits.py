r"""How much of a weak encoder's loss do a few gradient steps of each row's own win back, and what
do they cost?

The encoder is one linear layer. It is trained with the story, then both stay as they are: steps are
put behind it at test time only (`SemiAmortized.of`). q* is the best that the family can do on each
row. Data by name: `digits`, or `mnist` to see a larger gap. Written to
`examples/results/semi_amortized_digits.json`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ppvae
from ppvae.data import to_batch
from ppvae.guides import SemiAmortized

SEED, EPOCHS, TEST_ROWS, PARTICLES, STEPS = 0, 50, 100, 500, (5, 20, 50)
RESULTS = Path(__file__).parent / "results" / "semi_amortized_digits.json"


def pair(data: str, epochs: int) -> tuple[nn.Module, ppvae.guides.Guide]:
    """A story with a mean-field guide whose encoder is one linear layer, trained together."""
    train, val = (ppvae.data.load(data, split=part) for part in ("train", "valid"))
    torch.manual_seed(SEED)
    story = ppvae.stories.load("vae", train.batch(slice(100)))
    guide = ppvae.guides.build("mean_field", story, train, encoder=nn.Flatten())
    ppvae.fit(story, guide, train, val=val, epochs=epochs, seed=SEED)
    return story, guide


def measured(
    story: nn.Module, guide: ppvae.guides.Guide, rows: dict[str, Tensor], steps: tuple[int, ...]
) -> dict[str, tuple[ppvae.Estimate, float]]:
    """ELBO of each row with the encoder alone, after steps, and at q*; and the seconds of inference
    for all rows."""

    def scored(prepare: Any) -> tuple[ppvae.Estimate, float]:
        start = time.perf_counter()
        with torch.no_grad():
            one = prepare()
        seconds = time.perf_counter() - start
        return ppvae.elbo(story, one, rows, num_particles=PARTICLES, seed=SEED), seconds

    def after(count: int) -> SemiAmortized:
        fit_local = SemiAmortized.of(story, guide, num_steps=count)
        fit_local.parameters_of(rows)
        return fit_local

    def best() -> nn.Module:
        local = guide.local(rows)
        with torch.enable_grad():
            local.optimize(story)
        return local

    found = {"encoder alone": scored(lambda: (guide.parameters_of(rows), guide)[1])}
    found |= {f"and {count} steps": scored(lambda count=count: after(count)) for count in steps}
    return found | {"q*": scored(best)}


def main(
    data: str = "digits",
    epochs: int = EPOCHS,
    test_rows: int = TEST_ROWS,
    steps: tuple[int, ...] = STEPS,
    results: Path = RESULTS,
) -> dict[str, Any]:
    """Train, measure and write; returns what was found."""
    story, guide = pair(data, epochs)
    rows = to_batch(story, ppvae.data.load(data, split="test").head(test_rows))
    by_name = measured(story, guide, rows, steps)
    start, best = by_name["encoder alone"][0], by_name["q*"][0]
    gap = float((best - start).mean().value)
    found: dict[str, Any] = {
        "seed": SEED, "epochs": epochs, "test_rows": test_rows, "particles": PARTICLES,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "guides": {},
    }  # fmt: skip
    for name, (elbo, seconds) in by_name.items():
        left = (best - elbo).mean()
        found["guides"][name] = {
            "elbo": float(elbo.mean().value),
            "elbo_std_error": float(elbo.mean().std_error),
            "amortization_gap": float(left.value),
            "gap_std_error": float(left.std_error),
            "share_closed": 1 - float(left.value) / gap,
            "seconds": round(seconds, 3),
        }
    written = json.loads(results.read_text()) if results.exists() else {}
    results.write_text(json.dumps({**written, data: found}, indent=1))
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each guide, nats per row."""
    lines = [f"{'one linear layer':<16}     ELBO   amortization gap   closed   seconds"]
    for name, one in found["guides"].items():
        gap = f"{one['amortization_gap']:.3f} ± {one['gap_std_error']:.3f}"
        lines.append(
            f"{name:<16} {one['elbo']:8.2f} {gap:>18}   {one['share_closed']:6.0%}  "
            f"{one['seconds']:8.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    words = sys.argv[1:]
    print(table(main(*words[:1], *map(int, words[1:2]))))
