r"""Can a string be heard? Pitch, decay and brightness of held-out plucks, from noisy spectrograms.

The guide of `plucked_string` is trained on sounds that the story makes up: there is nothing else to learn. For held-out sounds it is then
refined row by row to q*, and the central 90 % of its draws should hold the true pitch, decay and brightness on about 90 % of the
sounds. Writes `examples/results/can_a_string_be_heard.json`, and, where a folder is named, a WAV file of a true sound followed by the
one that the mean of its posterior says.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io.wavfile
import torch
from torch import Tensor

import ppvae
from ppvae.gallery import load_story
from ppvae.story import measuring, seeded

SEED, LEVEL, RATE = 0, 0.9, 16_000
CAUSES = ("pitch", "decay", "brightness")
RESULTS = Path(__file__).parent / "results" / "can_a_string_be_heard.json"


def drawn(guide: Any, batch: dict[str, Tensor], num_draws: int) -> dict[str, Tensor]:
    """Draws of each cause, `(S, B)`."""
    with torch.no_grad(), measuring(SEED, guide):
        return guide.flat.unpack(guide.posterior(batch).sample((num_draws,)))[0]


def judged(said: dict[str, Tensor], true: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Coverage, error and width of each cause: in semitones for the pitch, in shares of the truth for the others."""
    found = {}
    for name in CAUSES:
        low = torch.quantile(said[name], (1 - LEVEL) / 2, dim=0)
        high = torch.quantile(said[name], (1 + LEVEL) / 2, dim=0)
        unit = torch.ones_like(true[name]) if name == "pitch" else true[name]
        error = ((said[name].mean(0) - true[name]) / unit).abs()
        found[name] = {
            "coverage": float(((low <= true[name]) & (true[name] <= high)).double().mean()),
            "median_error": float(error.median()),
            "median_width": float(((high - low) / unit).median()),
        }
    return found


def write_sound(string: Any, causes: list[list[float]], path: Path) -> None:
    """One second of each triple of causes, one after the other, at the rate of a listener."""
    moments = torch.arange(RATE) / RATE
    rows = torch.tensor(causes)
    wave = string.sound(*rows.T, moments).flatten()
    scipy.io.wavfile.write(path, RATE, (wave * 32_000).numpy().astype(np.int16))


def main(
    rows: int = 4_000,
    held_out: int = 100,
    epochs: int = 40,
    family: str = "full_rank",
    max_steps: int = 300,
    num_draws: int = 1000,
    results: Path | None = RESULTS,
    wav: Path | None = None,
) -> dict[str, Any]:
    """Train on simulated sounds, refine on held-out ones; returns coverage and relative errors."""
    story: Any = load_story("plucked_string", {})
    train = {"x": ppvae.simulate(story, rows, seed=SEED + 1)["x"]}
    true = ppvae.simulate(story, held_out, seed=SEED)
    batch = {"x": true["x"]}
    with seeded(SEED):
        guide = ppvae.guides.build(family, story, train)
    start = time.perf_counter()
    ppvae.fit(story, guide, train, epochs=epochs, seed=SEED)
    trained = time.perf_counter()
    local = guide.local(batch)
    search = local.optimize(story, max_steps=max_steps)
    found = {
        "rows": rows, "held_out": held_out, "seed": SEED, "epochs": epochs, "guide": family, "level": LEVEL,
        "draws": num_draws, "torch": torch.__version__, "seconds": round(trained - start, 1),
        "seconds_local": round(time.perf_counter() - trained, 1), "local_steps": search.num_steps,
        "amortized": judged(drawn(guide, batch, num_draws), true),
        "local": judged(drawn(local, batch, num_draws), true),
    }  # fmt: skip
    if results is not None:
        results.write_text(json.dumps(found))
    if wav is not None:
        said = drawn(local, batch, num_draws)
        pair = [[float(true[c][0]) for c in CAUSES], [float(said[c][:, 0].mean()) for c in CAUSES]]
        write_sound(load_story("plucked_string", {}, rate=RATE), pair, wav)
    return found


def table(found: dict[str, Any]) -> str:
    """Coverage and relative error of each cause."""
    lines = [
        f"{found['held_out']} held-out sounds   in the central {found['level']:.0%}   error   width"
    ]
    for kind in ("amortized", "local"):
        for name, one in found[kind].items():
            lines.append(
                f"  {kind:<10} {name:<11} {one['coverage']:8.1%} {one['median_error']:14.3f} {one['median_width']:7.3f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(wav=Path(sys.argv[1]) if sys.argv[1:] else None)))
