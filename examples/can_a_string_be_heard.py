r"""Can a string be heard? Pitch, decay and brightness of held-out plucks, from noisy spectrograms.

There is nothing to learn about the story, and it makes up as many sounds as one likes. So the guide
sleeps (`wake_sleep`, whose waking half has nothing to do here): each step shows it fresh sounds
together with their causes. What it then says of a sound is an average over all causes that could
have made it, as far as its encoder can tell: an encoder that hears badly gives wide answers, not
wrong ones. For held-out sounds the central 90 % of its draws should hold the true pitch, decay and
brightness on about 90 % of the sounds. The same is asked of q*, the member of the guide's family
that is best for each sound by itself. Writes `examples/results/can_a_string_be_heard.json`, and,
where a folder is named, a WAV file of a true sound followed by the one that the mean of its
posterior says.
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

SEED, LEVEL, RATE = 0, 0.9, 16_000
ROWS, BATCH_SIZE, LR, HIDDEN = 4000, 100, 1e-3, (256, 256, 256)
CAUSES = ("pitch", "decay", "brightness")
RESULTS = Path(__file__).parent / "results" / "can_a_string_be_heard.json"


def drawn(guide: Any, batch: dict[str, Tensor], num_draws: int) -> dict[str, Tensor]:
    """Draws of each cause, `(S, B)`."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        return guide.flat.unflatten(guide.posterior(batch).sample((num_draws,)))[0]


def judged(said: dict[str, Tensor], true: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Coverage, error and width of each cause: in semitones for the pitch, in shares of the truth
    for the others."""
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
    held_out: int = 1000,
    fit_local: int = 100,
    epochs: int = 80,
    family: str = "full_rank",
    max_steps: int = 150,
    num_draws: int = 1000,
    results: Path | None = RESULTS,
    wav: Path | None = None,
) -> dict[str, Any]:
    """Train on sounds that the story makes up, listen to held-out ones; returns coverage and
    relative errors."""
    story: Any = ppvae.stories.load("plucked_string", {})
    # What the encoder's inputs are standardised by; the sounds that it learns from are fresh at
    # every step.
    rows = {"x": ppvae.simulate(story, ROWS, seed=SEED + 1)["x"]}
    true = ppvae.simulate(story, held_out, seed=SEED)
    batch = {"x": true["x"]}
    torch.manual_seed(SEED)
    guide = ppvae.guides.build(family, story, rows, hidden=HIDDEN)
    start = time.perf_counter()
    ppvae.fit(
        story, guide, rows, objective="wake_sleep", epochs=epochs, batch_size=BATCH_SIZE, lr=LR,
        schedule="cosine", seed=SEED,
    )  # fmt: skip
    trained = time.perf_counter()
    few = {"x": true["x"][:fit_local]}
    local = guide.local(few)
    search = local.optimize(story, max_steps=max_steps)
    found = {
        "rows": ROWS,
        "held_out": held_out,
        "refined": fit_local,
        "seed": SEED,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "guide": family,
        "hidden": HIDDEN,
        "level": LEVEL,
        "draws": num_draws,
        "torch": torch.__version__,
        "seconds": round(trained - start, 1),
        "seconds_local": round(time.perf_counter() - trained, 1),
        "local_steps": search.num_steps,
        "amortized": judged(drawn(guide, batch, num_draws), true),
        "local": judged(drawn(local, few, num_draws), {c: true[c][:fit_local] for c in CAUSES}),
    }
    if results is not None:
        results.write_text(json.dumps(found))
    if wav is not None:
        said = drawn(local, few, num_draws)
        pair = [[float(true[c][0]) for c in CAUSES], [float(said[c][:, 0].mean()) for c in CAUSES]]
        write_sound(ppvae.stories.load("plucked_string", {}, rate=RATE), pair, wav)
    return found


def table(found: dict[str, Any]) -> str:
    """Coverage and relative error of each cause."""
    lines = [
        f"{found['held_out']} and {found['refined']} held-out sounds   in the central "
        f"{found['level']:.0%}   error   width"
    ]
    for kind in ("amortized", "local"):
        for name, one in found[kind].items():
            lines.append(
                f"  {kind:<10} {name:<11} {one['coverage']:8.1%} {one['median_error']:14.3f} "
                f"{one['median_width']:7.3f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(wav=Path(sys.argv[1]) if sys.argv[1:] else None)))
