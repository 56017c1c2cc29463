r"""Does k-hat find the rows where inference loses most? Per-row inference gap beside k-hat, on real
MNIST rows.

The story 784-200-200-50 with its mean-field guide is trained for a few epochs on MNIST (static
binarisation). For each test row the inference gap is log p(x) − L[q], with log p(x) by annealed
importance sampling from the row's own q*, and k-hat comes from particles of the amortized guide
that the gap does not see, so that no shared noise ties the two. Reported is Spearman's rank
correlation with a bootstrap interval over rows. Two independent k-hats of the same rows tell how
noisy they are: the square root of their correlation is about the most that k-hat could agree with
anything. Bidirectional Monte Carlo on simulated rows certifies the annealing. Rows are measured a
hundred at a time and taken up where they stopped.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import ppvae
from ppvae.diagnostics import khat, khat_threshold

SEED, EPOCHS, BATCH_SIZE, LR = 0, 20, 100, 1e-3
ROWS, STEP, PARTICLES, CHAINS, TEMPERATURES = 400, 100, 1000, 16, 50
MANY, SIMULATED = 10_000, 50
RESAMPLES, LEVEL = 4000, 0.95
RESULTS = Path(__file__).parent / "results" / "gap_against_khat.json"
RUNS = Path("runs") / "gap_against_khat"
COLUMNS = (
    "gap",
    "gap_std_error",
    "approximation_gap",
    "amortization_gap",
    "khat",
    "khat_again",
    "khat_many",
)


def trained(data: str, epochs: int, runs: Path) -> tuple[nn.Module, nn.Module, float]:
    """Story and guide after training, and the seconds that it took."""
    rows = ppvae.data.load(data, split="train", binarize="static")
    torch.manual_seed(SEED)
    story = ppvae.stories.load("vae", rows.batch(slice(100)))
    guide = ppvae.guides.build("mean_field", story, rows)
    folder = runs / "fit"
    history = ppvae.fit(
        story, guide, rows, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, seed=SEED,
        run_dir=folder, resume=folder.is_dir(),
    )  # fmt: skip
    return story, guide, history.seconds


def measured(
    story: nn.Module, guide: nn.Module, rows: dict[str, Tensor], num_simulated: int
) -> dict[str, Any]:
    """Gaps and k-hats of some rows, column -> one number a row, and the certificate of log p(x)."""
    found = ppvae.gaps(
        story,
        guide,
        rows,
        method="ais",
        num_particles=PARTICLES,
        annealing=ppvae.Annealing(num_chains=CHAINS, num_temperatures=TEMPERATURES),
        num_simulated=num_simulated,
        seed=SEED,
    )
    again = khat(ppvae.log_weights(story, guide, rows, PARTICLES, seed=SEED + 100))
    many = khat(ppvae.log_weights(story, guide, rows, MANY, seed=SEED + 200))
    gap = found.inference_gap
    columns = (
        gap.value, gap.std_error, found.approximation_gap.value, found.amortization_gap.value,
        found.khat, again, many,
    )  # fmt: skip
    kept = {k: [round(float(v), 4) for v in c] for k, c in zip(COLUMNS, columns, strict=True)}
    width = found.certificate
    return {"rows": kept, "certificate": None if width is None else str(width)}


def spearman(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Rank correlation with its bootstrap interval over rows (percentiles)."""
    pairs = np.column_stack([one, other])
    generator = np.random.default_rng(SEED)
    picks = generator.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    values = [float(spearmanr(pairs[p]).statistic) for p in picks]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(spearmanr(pairs).statistic)
    return {"value": round(value, 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def main(
    epochs: int = EPOCHS,
    num_rows: int = ROWS,
    data: str = "mnist",
    results: Path = RESULTS,
    runs: Path = RUNS,
) -> dict[str, Any]:
    """Train, measure the rows that are still missing, and write the correlations."""
    story, guide, training_seconds = trained(data, epochs, runs)
    test = ppvae.data.load(data, split="test", binarize="static").head(num_rows)
    parts, seconds = [], 0.0
    for start in range(0, num_rows, STEP):
        file = runs / f"rows_{start}.json"
        if not file.exists():
            begun = time.perf_counter()
            some = {k: v[start : start + STEP] for k, v in test.batch().items()}
            part = measured(story, guide, some, 0 if start else SIMULATED)
            file.write_text(json.dumps(part | {"seconds": time.perf_counter() - begun}))
        part = json.loads(file.read_text())
        parts.append(part)
        seconds += part["seconds"]
    rows = {k: [v for part in parts for v in part["rows"][k]] for k in COLUMNS}
    bar = khat_threshold(PARTICLES)
    trusted = np.array(rows["khat"]) <= bar
    gap = np.array(rows["gap"])
    found = {
        "data": data, "seed": SEED, "epochs": epochs, "batch_size": BATCH_SIZE, "lr": LR,
        "rows": num_rows, "particles": PARTICLES, "chains": CHAINS, "temperatures": TEMPERATURES,
        "evidence": "ais from q*", "certificate": parts[0]["certificate"], "many": MANY,
        "torch": torch.__version__, "threads": torch.get_num_threads(),
        "training_seconds": round(training_seconds, 1), "seconds": round(seconds, 1),
        "resamples": RESAMPLES, "level": LEVEL, "khat_threshold": round(bar, 3),
        "share_above": round(float(1 - trusted.mean()), 3),
        "mean_gap_below": _mean(gap[trusted]), "mean_gap_above": _mean(gap[~trusted]),
        "spearman": {
            "inference gap, k-hat": spearman(rows["gap"], rows["khat"]),
            "approximation gap, k-hat": spearman(rows["approximation_gap"], rows["khat"]),
            "amortization gap, k-hat": spearman(rows["amortization_gap"], rows["khat"]),
            f"inference gap, k-hat of {MANY:,} particles": spearman(rows["gap"], rows["khat_many"]),
            "k-hat, k-hat of other particles": spearman(rows["khat"], rows["khat_again"]),
        },
        "by_row": rows,
    }  # fmt: skip
    results.write_text(json.dumps(found))
    return found


def _mean(values: np.ndarray) -> list[float] | None:
    """Mean and its standard error; None of nothing."""
    if len(values) < 2:
        return None
    return [
        round(float(values.mean()), 3),
        round(float(values.std(ddof=1) / len(values) ** 0.5), 3),
    ]


def table(found: dict[str, Any]) -> str:
    """One line for each correlation, and the mean gap on either side of the threshold."""
    lines = [f"Spearman over {found['rows']} rows                    value   95 % interval"]
    for name, one in found["spearman"].items():
        lines.append(f"{name:<45} {one['value']:6.2f}   {one['low']:5.2f} to {one['high']:5.2f}")
    for side, words in (("below", "at most"), ("above", "above")):
        mean = found[f"mean_gap_{side}"]
        if mean is not None:
            lines.append(
                f"mean gap where k-hat is {words} {found['khat_threshold']}: {mean[0]:.2f} ± "
                f"{mean[1]:.2f} nats"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(*map(int, sys.argv[1:3]))))
