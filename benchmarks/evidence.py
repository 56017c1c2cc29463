r"""How fast is log p(x) of a network known to a tenth of a nat, beside annealing from the prior?
And are the bounds in order?

On 50 rows that a story trained on MNIST (784-200-200-50) generates, with 10 chains: bidirectional
Monte Carlo from q*, its search included, and from the prior with a linear schedule and 10 leapfrog
steps, in turn in one run. Train first:

    ppvae fit vae --data mnist --guide mean_field --epochs 20 --run-dir runs/mnist
    python benchmarks/evidence.py runs/mnist

Each part is written to `examples/results/evidence.json` when it is done, and a run that finds it
there goes on with the next. Seconds are of one thread: of the processor, and on the clock.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ppvae
from ppvae.inference.ais import AnnealedSampler
from ppvae.inference.annealing_path import annealing_path
from ppvae.problem import Problem
from ppvae.stories import load as load_story

SEED, ROWS, CHAINS = 0, 50, 10
OURS = ppvae.Annealing(num_chains=CHAINS, num_temperatures=80, num_leapfrog=2)
LOCAL_STEPS = 150
BASELINES = (100, 1000)
BASELINE_LEAPFROG = 10
IWAE_PARTICLES = 5000
RESULTS = Path(__file__).parent.parent / "examples" / "results" / "evidence.json"

Parts = dict[str, Callable[[], dict[str, Any]]]


class Clock:
    """Seconds of this process and on the clock since it was made."""

    def __init__(self) -> None:
        self.start = time.process_time(), time.perf_counter()

    def read(self) -> dict[str, float]:
        cpu, wall = time.process_time() - self.start[0], time.perf_counter() - self.start[1]
        return {"cpu_seconds": round(cpu, 2), "seconds": round(wall, 2)}


def width_of(lower: Tensor, upper: Tensor) -> dict[str, Any]:
    width = ppvae.Estimate.of_draws(upper - lower)
    return {
        "width": round(float(width.value), 4), "width_error": round(float(width.std_error), 4),
        "lower": round(float(lower.mean()), 3), "upper": round(float(upper.mean()), 3),
    }  # fmt: skip


def ours(story: nn.Module, guide: nn.Module) -> dict[str, Any]:
    """The public call, the search for q* and the pilot run included."""
    clock = Clock()
    found = ppvae.bdmc(
        story, guide, num_simulated=ROWS, annealing=OURS, local_steps=LOCAL_STEPS, seed=SEED
    )
    return clock.read() | width_of(found.lower.value, found.upper.value)


def from_prior(story: nn.Module, num_temperatures: int) -> dict[str, Any]:
    """Both directions from the prior; the time of its pilot run is told apart, and not counted."""
    drawn = ppvae.simulate(story, ROWS, seed=SEED)
    settings = ppvae.Annealing(
        num_chains=CHAINS,
        num_temperatures=num_temperatures,
        num_leapfrog=BASELINE_LEAPFROG,
        start="prior",
        temperature_schedule="linear",
    )
    problem, clock = Problem.of(story, None, {"x": drawn["x"]}), Clock()
    with problem.eval_mode(SEED), torch.no_grad():
        annealed = AnnealedSampler(annealing_path("prior", problem), settings)
        pilot, clock = clock.read(), Clock()
        lower = annealed.forward().log_mean().value
        upper = -annealed.backward({"z": drawn["z"]}).log_mean().value
    return clock.read() | {"pilot_cpu_seconds": pilot["cpu_seconds"]} | width_of(lower, upper)


def ordering(story: nn.Module, guide: nn.Module, x: Tensor, upper: Any = None) -> dict[str, Any]:
    """Bounds from low to high, with the error of each step up."""
    bounds = {"elbo": ppvae.elbo(story, guide, x, num_particles=1000, seed=SEED)}
    for k in (10, 100):
        bounds[f"iwelbo_{k}"] = ppvae.iwelbo(
            story, guide, x, num_particles=k, num_repeats=20, seed=k
        )
    bounds[f"iwelbo_{IWAE_PARTICLES}_local"] = ppvae.log_evidence(
        story, x, method="iwae", guide=guide, num_particles=IWAE_PARTICLES, seed=SEED
    )
    bounds["ais"] = ppvae.log_evidence(
        story, x, method="ais", guide=guide, annealing=OURS, seed=SEED
    )
    if upper is not None:
        bounds["bdmc_upper"] = upper
    found: dict[str, Any] = {}
    before = None
    for name, bound in bounds.items():
        found[name] = {"value": round(float(bound.value.mean()), 3)}
        if before is not None:
            step = bound - before
            noise = float(step.std_error.square().sum().sqrt()) / len(step)
            if math.isnan(noise):  # of the upper bound only the spread over rows is known
                noise = float(step.mean().std_error)
            found[name] |= {"step": round(float(step.value.mean()), 4), "error": round(noise, 4)}
        before = bound
    return found


def parts_of(story: nn.Module, guide: nn.Module) -> Parts:
    simulated = ppvae.simulate(story, ROWS, seed=SEED)["x"]
    test = ppvae.data.load("mnist", split="test").head(ROWS)

    def on_simulated() -> dict[str, Any]:
        upper = ppvae.bdmc(story, guide, num_simulated=ROWS, annealing=OURS, seed=SEED).upper
        return ordering(story, guide, simulated, upper)

    parts: Parts = {"ours": lambda: ours(story, guide)}
    for num in BASELINES:
        parts[f"prior_{num}"] = partial(from_prior, story, num)
    parts["ours_again"] = lambda: ours(story, guide)
    parts["ordering_simulated"] = on_simulated
    parts["ordering_mnist"] = lambda: ordering(story, guide, test.batch()["x"])
    return parts


def main(run: str = "runs/mnist", results: Path = RESULTS) -> dict[str, Any]:
    """Run what the results lack; returns them."""
    torch.set_num_threads(1)
    train = ppvae.data.load("mnist")
    story = load_story("vae", train.batch(slice(100)))
    guide = ppvae.guides.build("mean_field", story, train)
    ppvae.load(run, story, guide)
    found: dict[str, Any] = {
        "seed": SEED,
        "rows": ROWS,
        "chains": CHAINS,
        "temperatures": OURS.num_temperatures,
        "leapfrog": OURS.num_leapfrog,
        "local_steps": LOCAL_STEPS,
        "torch": torch.__version__,
        "threads": 1,
        "parts": {},
    }
    if results.exists():
        before = json.loads(results.read_text())
        if {**before, "parts": {}} != found:
            raise ValueError(
                f"expected the settings of {results}, got others; remove it to begin anew"
            )
        found = before
    for name, part in parts_of(story, guide).items():
        if name not in found["parts"]:
            found["parts"][name] = part()
            results.write_text(json.dumps(found, indent=1))
        print(name, json.dumps(found["parts"][name]), flush=True)
    return found


def summary(found: dict[str, Any]) -> str:
    """Width and the ratio of times, against the slower of our two runs."""
    parts = found["parts"]
    slower = max((parts["ours"], parts["ours_again"]), key=lambda p: p["cpu_seconds"])
    lines = [f"settings: { {k: v for k, v in found.items() if k != 'parts'} }"]
    for name, one in parts.items():
        if "width" in one:
            ratio = one["cpu_seconds"] / slower["cpu_seconds"]
            lines.append(
                f"{name:<12} {one['width']:7.3f} ± {one['width_error']:.3f} nats wide, "
                f"{one['cpu_seconds']:8.1f} s of processor, {ratio:5.1f} times ours"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary(main(*sys.argv[1:2])))
