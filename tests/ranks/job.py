"""What one process, or several under torchrun, are asked to do with the same seeds: `job.py NAME RUN_DIR RESULT`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ppvae
from ppvae import ranks
from ppvae.inference import rows as evidence_rows
from ppvae.stories import load_story
from ppvae.story import seeded

NUM_ROWS, BATCH_SIZE = (
    61,
    20,
)  # parts of 10 rows, and a last batch of one, which leaves a process without any


class Dropping(PyroModule):
    """Two causes and a global one, a decoder that drops units."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 6))

    def forward(self, n: int) -> None:
        shift = pyro.sample("shift", dist.Normal(torch.zeros(6), 1.0).to_event(1))
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z) + shift, 0.5).to_event(1))


def digits(family: str = "mean_field", **options: Any) -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    rows = ppvae.data.load("digits").head(NUM_ROWS)
    story = load_story("vae", rows.batch(), latent_dim=3)
    return story, ppvae.guides.build(family, story, rows, hidden=(16,), **options), rows


def trained(story: nn.Module, guide: nn.Module, rows: Any, **options: Any) -> dict[str, Any]:
    given = {"epochs": 2, "batch_size": BATCH_SIZE, "lr": 0.01, "progress": False, **options}
    history = ppvae.fit(story, guide, rows, **given)
    weights = {**story.state_dict(), **{f"guide.{k}": v for k, v in guide.state_dict().items()}}
    names = (
        "loss",
        "elbo",
        "gradient_norm",
        *(["val_elbo"] if given.get("val") is not None else []),
    )
    return weights | {n: torch.tensor(history.column(n), dtype=torch.float64) for n in names}


def fit(run: Path) -> dict[str, Any]:
    story, guide, rows = digits()
    return trained(story, guide, rows, val=rows.head(33), run_dir=run, clip_norm=3.0, average=0.9)


def fit_flow(run: Path) -> dict[str, Any]:
    return trained(*digits("iaf"), val=digits()[2].head(7), objective="iwae", num_particles=3)


def fit_baseline(run: Path) -> dict[str, Any]:
    """The baseline's running mean is a buffer that moves."""
    story, guide, rows = digits()
    return trained(story, guide, rows, val=rows, objective="score_function", batch_size=30)


def fit_global(run: Path) -> dict[str, Any]:
    torch.manual_seed(1)
    story, rows = Dropping(), torch.randn(NUM_ROWS, 6)
    guide = ppvae.guides.build("mean_field", story, rows, hidden=(8,))
    return trained(story, guide, rows, val=rows[:10])


def fit_stream(run: Path) -> dict[str, Any]:
    """A loader that shuffles, and a file, are read by each process for itself."""
    story, guide, rows = digits()
    file = run.parent / f"rows_{ranks.rank()}.npy"
    np.save(file, rows.tensors["x"].numpy().astype(np.uint8))
    loader = DataLoader(TensorDataset(rows.tensors["x"]), batch_size=7, shuffle=True)
    return trained(story, guide, loader, val=ppvae.data.mapped(file, split="all"))


def fit_each(run: Path) -> dict[str, Any]:
    """Every objective, from the same start."""
    found = {}
    for name in ppvae.objectives.OBJECTIVES:
        story, guide, rows = digits()
        particles = 1 if name.endswith("_elbo") else 3
        given = {"epochs": 1, "objective": name, "num_particles": particles, "val": rows}
        found[name] = trained(story, guide, rows, **given)["val_elbo"]
    return found


def measure(run: Path) -> dict[str, Any]:
    story, guide, rows = digits()
    evidence_rows.ROWS_AT_A_TIME = 16  # what two processes take of 31 rows
    few = rows.head(31)
    settings = ppvae.Annealing(num_temperatures=10, num_chains=3)
    found = ppvae.gaps(
        story, guide, few, evidence="ais", annealing=settings, num_simulated=32, num_particles=50
    )
    parts = {
        "gaps": found.approximation_gap, "amortization": found.amortization_gap,
        # as many particles as a process of two has rows
        "elbo": ppvae.elbo(story, guide, few), "square": ppvae.elbo(story, guide, rows.head(20), num_particles=10), "iwelbo": ppvae.iwelbo(story, guide, few),
        "iwae": ppvae.log_evidence(story, few, method="iwae", guide=guide, num_particles=60),
        "ais": ppvae.log_evidence(story, few, method="ais", guide=guide, annealing=settings),
        "bdmc": ppvae.bdmc(story, guide, n=32, annealing=settings).width,
    }  # fmt: skip
    by_row = ppvae.diagnostics.diagnose(
        story, guide, few, num_particles=60, num_simulations=50
    ).rows
    assert by_row is not None
    tensors: dict[str, Tensor] = {"khat": found.khat, "khat_again": by_row.khat, "ess": by_row.ess}
    tensors["log_weights"] = ppvae.log_weights(story, guide, few, 9, seed=0)
    return tensors | {k: v.value for k, v in parts.items()}


def fault(run: Path) -> dict[str, Any]:
    """Rows that only the last process meets fail in all of them."""
    _, guide, rows = digits()
    values = rows.tensors["x"].clone()

    def broken(*args: Any) -> Tensor:
        raise ValueError("row 60 is not to be had")

    if ranks.rank() == ranks.num_ranks() - 1:
        guide.posterior = broken
    try:
        ranks.over_parts(lambda part, size: guide.posterior(part), [{"x": values}])
    except ValueError as error:
        return {"said": str(error)}
    return {}


def fit_unlike(run: Path) -> dict[str, Any]:
    """Weights and buffers, of types that gloo does not send too, that begin otherwise in each process."""
    rows = digits()[2]
    torch.manual_seed(ranks.rank())
    story = load_story("vae", rows.batch(), latent_dim=3)
    guide = ppvae.guides.build("mean_field", story, rows, hidden=(16,))
    story.register_buffer("mask", torch.rand(5) < 0.5)
    story.register_buffer("number", torch.randint(99, (), dtype=torch.int16))
    found = trained(story, guide, rows, val=rows, average=0.9)
    return {
        f"{name}, process {number}": value
        for number, its in enumerate(ranks.all_of(found))
        for name, value in its.items()
    }


def said(work: Any) -> str:
    try:
        work()
    except ValueError as error:
        return str(error)
    return ""


def unlike_settings(run: Path) -> dict[str, Any]:
    """What each process says where each was given a seed, or rows, of its own."""
    story, guide, rows = digits()
    number = ranks.rank()
    return {
        "seed": ranks.all_of(said(lambda: trained(story, guide, rows, seed=number))),
        "rows": ranks.all_of(
            said(lambda: trained(story, guide, rows.batch()["x"].roll(number, 0)))
        ),
    }


def taken_folder(run: Path) -> dict[str, Any]:
    """A folder that the first process cannot begin with; all go on after the error."""
    folder = run.parent / "taken"
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("mine")
    ranks.wait()
    heard = ranks.all_of(said(lambda: trained(*digits(), run_dir=folder)))
    return {"said": heard, "after": ranks.all_of(1)}


def unseeded(run: Path) -> dict[str, Any]:
    """Pieces of rows draw noise of their own without a seed too."""
    torch.manual_seed(0)

    def measure(rows: Any, first: int, seed: int | None) -> dict[str, Tensor]:
        with seeded(seed):
            return {"drawn": torch.randn(len(rows["x"]))}

    return evidence_rows.over_rows({"x": torch.zeros(4)}, measure, 1, seed=None)


MADE = (
    fit, fit_flow, fit_baseline, fit_global, fit_stream, fit_each, fit_unlike, measure, fault, unlike_settings,
    taken_folder, unseeded,
)  # fmt: skip
JOBS = {f.__name__: f for f in MADE}

if __name__ == "__main__":
    names, run, result = sys.argv[1].split(","), Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    with ppvae.joined():
        found = {name: JOBS[name](run) for name in names}
        if ranks.is_first():
            torch.save({"ranks": ranks.num_ranks(), **found}, result)
