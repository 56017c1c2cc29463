r"""Can empty cells be filled? `tabular_vae` on two tables inside scikit-learn, a fifth of their
cells hidden.

`diabetes`: 442 patients, one real column, eight positive ones, an age in whole years and a sex.
`wine`: 178 wines, thirteen positive columns and the grower, one of three. The story is trained on
all rows without the hidden cells, and each hidden cell is filled by draws from p(cell | causes),
the causes drawn from the guide. Rivals: the column's mean over the cells that are left, for answers
and choices their most frequent value. Errors of numbers are in standard deviations of their column.
Calibration: the share of hidden numbers in the central 90 % of the draws. Writes
`examples/results/can_empty_cells_be_filled.json`.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_wine
from torch import Tensor

import ppvae

SEED, HIDDEN_SHARE, LEVEL = 0, 0.2, 0.9
BATCH_SIZE, LR, LATENT, WIDTH = 50, 2e-3, 3, 32
RESULTS = Path(__file__).parent / "results" / "can_empty_cells_be_filled.json"
NUMBERS = ("real", "amount", "count")


def diabetes() -> dict[str, Tensor]:
    """Column kinds to cells, `(442, columns)`; `s5` is a logarithm, so real."""
    frame = load_diabetes(scaled=False, as_frame=True).frame
    amounts = ["bmi", "bp", "s1", "s2", "s3", "s4", "s6", "target"]
    columns = {"real": ["s5"], "amount": amounts, "count": ["age"], "answer": ["sex"]}
    table = {k: torch.tensor(frame[names].to_numpy()).float() for k, names in columns.items()}
    return {**table, "answer": table["answer"] - 1}  # written as 1 and 2


def wine() -> dict[str, Tensor]:
    """Column kinds to cells, `(178, columns)`."""
    amounts, grower = load_wine(return_X_y=True)
    return {
        "amount": torch.tensor(amounts).float(),
        "choice": torch.tensor(grower).float()[:, None],
    }


TABLES = {"diabetes": diabetes, "wine": wine}


def with_holes(table: dict[str, Tensor]) -> dict[str, Tensor]:
    """The table with cells hidden at random."""
    generator = torch.Generator().manual_seed(SEED)
    return {
        kind: cells.masked_fill(
            torch.rand(cells.shape, generator=generator) < HIDDEN_SHARE, torch.nan
        )
        for kind, cells in table.items()
    }


def judged(kind: str, whole: Tensor, holed: Tensor, draws: Tensor) -> dict[str, Any]:
    """How well the hidden cells of one kind are filled; `draws` is `(S, N, columns)`."""
    hidden = holed.isnan()
    found: dict[str, Any] = {"hidden_cells": int(hidden.sum())}
    if kind not in NUMBERS:
        usual, said = holed.nan_to_num(-1).mode(0).values, draws.mode(0).values
        if bool((usual < 0).any()):
            raise ValueError("expected most cells of a column to be there")
        for name, guess in {"right": said, "right_by_the_usual": usual}.items():
            found[name] = float((guess == whole)[hidden].double().mean())
        return found
    unit, low_tail = whole.std(0), (1 - LEVEL) / 2
    for name, guess in {"error": draws.mean(0), "error_of_means": holed.nanmean(0)}.items():
        found[name] = float(((guess - whole) / unit)[hidden].square().mean().sqrt())
    low, high = (torch.quantile(draws, t, dim=0) for t in (low_tail, 1 - low_tail))
    inside = ((low <= whole) & (whole <= high))[hidden].double()
    found["coverage"] = float(inside.mean())
    found["coverage_std_error"] = float(inside.std() / len(inside) ** 0.5)
    return found


def filled(name: str, epochs: int, num_draws: int) -> dict[str, Any]:
    """Train on one table with holes, and judge what they are filled with, kind by kind."""
    whole = TABLES[name]()
    holed = with_holes(whole)
    torch.manual_seed(SEED)
    story = ppvae.stories.load("tabular_vae", holed, latent_dim=LATENT, hidden=(WIDTH,))
    guide = ppvae.guides.build("full_rank", story, holed, hidden=(WIDTH, WIDTH))
    start = time.perf_counter()
    ppvae.fit(story, guide, holed, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, seed=SEED)
    seconds = round(time.perf_counter() - start, 1)
    draws = ppvae.impute(story, guide, holed, num_draws=num_draws, seed=SEED)
    kinds = {kind: judged(kind, whole[kind], holed[kind], draws[kind]) for kind in draws}
    return {"rows": len(next(iter(whole.values()))), "seconds": seconds, "kinds": kinds}


def main(epochs: int = 300, num_draws: int = 400, results: Path | None = RESULTS) -> dict[str, Any]:
    """Fill the holes of each table."""
    found: dict[str, Any] = {
        "hidden_share": HIDDEN_SHARE,
        "level": LEVEL,
        "seed": SEED,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "latent_dim": LATENT,
        "width": WIDTH,
        "draws": num_draws,
        "torch": torch.__version__,
    }
    found["tables"] = {name: filled(name, epochs, num_draws) for name in TABLES}
    if results is not None:
        results.write_text(json.dumps(found))
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each kind of column of each table."""
    lines = ["table     kind     hidden   story   column's own   in the central 90%"]
    for name, one in found["tables"].items():
        for kind, said in one["kinds"].items():
            start = f"{name:<9} {kind:<8} {said['hidden_cells']:>6}"
            if kind in NUMBERS:
                errors = f"{said['error']:7.3f} {said['error_of_means']:14.3f}"
                share = f"{said['coverage']:.1%} ± {said['coverage_std_error']:.1%}"
                lines.append(f"{start} {errors}   {share} (error, sd)")
            else:
                shares = f"{said['right']:7.1%} {said['right_by_the_usual']:14.1%}"
                lines.append(f"{start} {shares}   (right)")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main()))
