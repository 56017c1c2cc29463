r"""Do chords remember? `deep_markov` on Bach's chorales against a story of independent steps, in
nats per time step.

Chorales are cut into pieces of `STEPS` quarter notes, the last one of each filled up with missing
values. The rival is `vae` on single steps. The story of sequences starts at its decoder, and the
guide at its encoder with a recurrent network beside it that reads what stands around a step; its
weights are shared by all steps. Started from nothing, the states of the sequences were lost to the
prior. Bounds on log p(x) of the test chorales are divided by their number of steps; both are found
by importance sampling. Writes `examples/results/do_chords_remember.json`, and, where a file is
named, a WAV of chords that the story makes up, played on plucked strings. The data file is looked
for in `$PPVAE_DATA/JSBChorales`.
"""

import json
import os
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io.wavfile
import torch
from torch import Tensor, nn

import ppvae
from ppvae.nets import MLP

SEED, STEPS, KEYS = 0, 20, 88
LOWEST, MIDI_OF_A = 21, 57  # MIDI notes of the piano's lowest key, and of 220 hertz
LATENT, WIDTH, HIDDEN = 16, 64, (100,)
RATE, SECONDS_A_STEP = 16_000, 0.4
RESULTS = Path(__file__).parent / "results" / "do_chords_remember.json"
FILE = "JSBChorales/jsb-chorales-quarter.json"


def pieces(chorales: list[list[list[int]]]) -> Tensor:
    """Chorales as pieces, `(N, STEPS, KEYS)`, missing after the end."""
    found = []
    for chorale in chorales:
        roll = torch.zeros(len(chorale), KEYS)
        for step, notes in enumerate(chorale):
            roll[step, torch.tensor(notes, dtype=torch.long) - LOWEST] = 1.0
        for part in roll.split(STEPS):
            rest = torch.full((STEPS - len(part), KEYS), torch.nan)
            found.append(torch.cat([part, rest]))
    return torch.stack(found)


class Reader(nn.Module):
    """What is read at and around each step, `(B, T, F)` to `(B, T * features)`: a step's keys by an
    encoder, all by a GRU.

    Arguments:
        encoder: From the keys of one step, `(*, KEYS)`, to `(*, HIDDEN[0])`.
        in_features: F; the keys stand first.
    """

    def __init__(self, encoder: nn.Module, in_features: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.gru = nn.GRU(in_features, WIDTH // 2, batch_first=True, bidirectional=True)

    def forward(self, sequence: Tensor) -> Tensor:
        around = self.gru(sequence)[0]
        return torch.cat([self.encoder(sequence[..., :KEYS]), around], -1).flatten(1)


class StepHead(nn.Module):
    """From what is read to the location and scale of each step's state, with the same weights at
    every step.

    Arguments:
        steps: T.
        start: The head of a guide of single steps, which it starts as: what stands around counts
            for nothing yet.
    """

    def __init__(self, steps: int, start: nn.Linear) -> None:
        super().__init__()
        self.steps = steps
        self.linear = nn.Linear(start.in_features + WIDTH, start.out_features)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[:, : start.in_features] = start.weight
            self.linear.bias.copy_(start.bias)

    def forward(self, read: Tensor) -> Tensor:
        loc, raw_scale = self.linear(read.unflatten(-1, (self.steps, -1))).chunk(2, -1)
        return torch.cat([loc.flatten(-2), raw_scale.flatten(-2)], -1)


def independent_steps(train: Tensor) -> tuple[nn.Module, nn.Module]:
    """The story of single steps, and its guide."""
    torch.manual_seed(SEED)
    story = ppvae.stories.load("vae", {"x": train}, latent_dim=LATENT, hidden=HIDDEN)
    encoder = MLP(KEYS, HIDDEN[0], HIDDEN, activate_last=True)
    return story, ppvae.guides.build("mean_field", story, train, encoder=encoder)


def deep_markov(train: Tensor, single: Any, its_guide: Any) -> tuple[nn.Module, nn.Module]:
    """The story of sequences and its guide, started from those of single steps."""
    torch.manual_seed(SEED)
    story: Any = ppvae.stories.load(
        "deep_markov", {"x": train}, latent_dim=LATENT, width=WIDTH, hidden=HIDDEN
    )
    story.decoder.load_state_dict(single.decoder.state_dict())
    marks = 2 if bool(train.isnan().any()) else 1  # keys, and which of them are missing
    reader = Reader(deepcopy(its_guide.features.encoder), marks * KEYS)
    guide: Any = ppvae.guides.build("mean_field", story, train, encoder=reader)
    guide.to_parameters = StepHead(train.shape[1], its_guide.to_parameters)
    return story, guide


def single_steps(rolls: Tensor) -> Tensor:
    """The steps that are there, `(steps, KEYS)`."""
    flat = rolls.flatten(0, 1)
    return flat[~flat[:, 0].isnan()]


def play(roll: Tensor, path: Path) -> None:
    """Write the chords of a roll `(T, KEYS)` as sound, each key a plucked string."""
    string: Any = ppvae.stories.load("plucked_string", {}, rate=RATE)
    time_of_step = torch.arange(int(RATE * SECONDS_A_STEP)) / RATE
    chords = []
    for step in roll:
        midi = step.nonzero().flatten() + LOWEST
        semitones = (midi - MIDI_OF_A).float()
        like = torch.ones_like(semitones)
        waves = string.sound(semitones, 0.5 * like, 0.5 * like, time_of_step)
        chords.append(waves.sum(0) if len(midi) else torch.zeros(len(time_of_step)))
    wave = torch.cat(chords)
    whole = (wave / wave.abs().max().clamp_min(1e-6) * 32_000).numpy().astype(np.int16)
    scipy.io.wavfile.write(path, RATE, whole)


def log_p_of(story: nn.Module, guide: nn.Module, rows: Tensor, num_particles: int) -> float:
    """A lower bound on log p(x) by importance sampling, in nats per row."""
    return float(
        ppvae.iwelbo(story, guide, rows, num_particles=num_particles, seed=SEED).mean().value
    )


def main(
    epochs: int = 30,
    few: int | None = None,
    particles: int = 500,
    results: Path | None = RESULTS,
    wav: Path | None = None,
) -> dict[str, Any]:
    """Train both stories, and measure them on the test chorales; `few` takes only so many pieces of
    each part."""
    text = (Path(os.environ["PPVAE_DATA"]) / FILE).read_text(encoding="utf-8")
    chorales = json.loads(text)
    train, valid, test = (pieces(chorales[part])[:few] for part in ("train", "valid", "test"))
    num_steps = len(single_steps(test))
    found: dict[str, Any] = {
        "data": "JSB chorales, quarter notes",
        "steps_of_a_piece": STEPS,
        "pieces": len(train),
        "test_steps": num_steps,
        "seed": SEED,
        "epochs": epochs,
        "latent_dim": LATENT,
        "width": WIDTH,
        "hidden": HIDDEN,
        "torch": torch.__version__,
    }
    single, its_guide = independent_steps(single_steps(train))
    rows, start = single_steps(test), time.perf_counter()
    ppvae.fit(
        single, its_guide, single_steps(train), val=single_steps(valid), epochs=epochs, seed=SEED
    )
    found["independent_steps"] = {
        "elbo": float(ppvae.elbo(single, its_guide, rows, seed=SEED).value.mean()),
        "log_p": log_p_of(single, its_guide, rows, particles),
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    story, guide = deep_markov(train, single, its_guide)
    start = time.perf_counter()
    history = ppvae.fit(
        story, guide, train, val=valid, epochs=epochs, batch_size=16, lr=1e-3, seed=SEED
    )
    elbo = ppvae.elbo(story, guide, test, num_particles=20, seed=SEED).value
    found["deep_markov"] = {
        "elbo": float(elbo.sum() / num_steps),
        "log_p": log_p_of(story, guide, test, particles) * len(test) / num_steps,
        "best_epoch": history.best_epoch,
        "seconds": round(time.perf_counter() - start, 1),
    }
    if results is not None:
        results.write_text(json.dumps(found))
    if wav is not None:
        play(ppvae.simulate(story, 1, seed=SEED)["x"][0], wav)
    return found


def table(found: dict[str, Any]) -> str:
    """Nats per step of both, higher is better."""
    one, other = found["deep_markov"], found["independent_steps"]
    return "\n".join(
        [
            f"log p(x) of {found['test_steps']} test steps, nats per step, at least",
            f"  deep_markov        {one['log_p']:7.3f}   {one['seconds']:5.0f} s",
            f"  independent steps  {other['log_p']:7.3f}   {other['seconds']:5.0f} s",
        ]
    )


if __name__ == "__main__":
    print(table(main(wav=Path(sys.argv[1]) if sys.argv[1:] else None)))
