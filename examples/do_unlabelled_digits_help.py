r"""Do digits without labels help to read digits? 100 labels, alone and beside pictures that have
none.

The story `semi_supervised_vae` learns from the labelled rows first and then from all rows, the
labelled ones several times in each pass, and classifies by Bayes' rule. The rival is the same
encoder with a linear layer, trained by cross-entropy on the labelled rows alone. Validation rows
are not used for anything, and so are tested on too. Writes
`examples/results/do_unlabelled_digits_help.json` after each seed.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ppvae
from ppvae.data import Request, Rows, load_request
from ppvae.data.columns import concatenate
from ppvae.nets import default_encoder

LABELS, HIDDEN, LR = 100, (200, 200), 1e-3
LABELLED_SHARE = 0.3  # labelled rows that are added to each pass, in shares of all rows
RESULTS = Path(__file__).parent / "results" / "do_unlabelled_digits_help.json"


def with_story(train: Rows, test: Tensor, epochs: tuple[int, int], seed: int) -> Tensor:
    """Chances of the classes of the test pictures, `(B, K)`, by the story."""
    labelled = train.subset(~train.tensors["y"].isnan())
    torch.manual_seed(seed)
    story = ppvae.stories.load("semi_supervised_vae", train.head(100).batch(), hidden=HIDDEN)
    guide = ppvae.guides.build("mean_field", story, train, hidden=HIDDEN)
    ppvae.fit(story, guide, labelled, epochs=epochs[0], batch_size=20, lr=LR, seed=seed)
    times = max(1, round(LABELLED_SHARE * len(train) / len(labelled)))
    mixed = concatenate([dict(train.tensors), *[dict(labelled.tensors)] * times])
    ppvae.fit(story, guide, mixed, epochs=epochs[1], lr=LR, seed=seed)
    return chances(story, guide, test, seed)


def chances(story: Any, guide: Any, x: Tensor, seed: int, num_particles: int = 50) -> Tensor:
    """p(y | x), `(B, K)`: the exact p(y | x, z) averaged over draws of z from the guide."""
    batch = {"x": x, "y": torch.full((len(x),), torch.nan)}
    torch.manual_seed(seed)
    with torch.no_grad():
        q = guide.posterior(batch)
        parts = [story.log_class(x, q.sample()).exp() for _ in range(num_particles)]
    return torch.stack(parts).mean(0)


def with_labels_alone(train: Rows, test: Tensor, steps: int, seed: int) -> Tensor:
    """Chances of the classes, `(B, K)`, by the encoder trained on the labelled rows alone."""
    labelled = train.subset(~train.tensors["y"].isnan()).batch()
    x, y = labelled["x"], labelled["y"].long()
    torch.manual_seed(seed)
    network = nn.Sequential(
        default_encoder(x.shape[1:], HIDDEN), nn.Linear(HIDDEN[-1], int(y.max()) + 1)
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=LR)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    with torch.no_grad():
        return network(test).softmax(-1)


def main(
    data: str = "digits",
    rows: int | None = None,
    test_rows: int = 5_000,
    epochs: tuple[int, int] = (100, 150),
    steps: int = 300,
    seeds: tuple[int, ...] = (0, 1, 2),
    results: Path | None = RESULTS,
) -> dict[str, Any]:
    """Train and test both; returns the shares of test pictures that are read rightly, seed by
    seed."""
    train = load_request(Request(data, rows=rows, labels=LABELS), "train")
    parts = [load_request(Request(data, labels="all"), split) for split in ("test", "valid")]
    test = {k: v[:test_rows] for k, v in concatenate(dict(p.tensors) for p in parts).items()}
    x, y = test["x"], test["y"].long()
    found: dict[str, Any] = {
        "data": data,
        "rows": len(train),
        "labels": LABELS,
        "test_rows": len(y),
        "epochs": epochs,
        "steps_on_labels_alone": steps,
        "hidden": HIDDEN,
        "lr": LR,
        "seeds": seeds,
        "torch": torch.__version__,
        "accuracy_story": [],
        "accuracy_labels_alone": [],
    }
    start = time.perf_counter()
    for seed in seeds:
        for key, said in (
            ("accuracy_labels_alone", with_labels_alone(train, x, steps, seed)),
            ("accuracy_story", with_story(train, x, epochs, seed)),
        ):
            found[key].append(float((said.argmax(-1) == y).float().mean()))
        found["seconds"] = round(time.perf_counter() - start, 1)
        if results is not None:
            results.write_text(json.dumps(found))
    return found


def table(found: dict[str, Any]) -> str:
    """One line for each way to learn."""
    lines = [
        f"{found['labels']} labels of {found['rows']} rows, {found['data']}: share read rightly"
    ]
    for name, key in (("all rows", "accuracy_story"), ("labels alone", "accuracy_labels_alone")):
        lines.append(f"  {name:<13}" + "  ".join(f"{v:.1%}" for v in found[key]))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(*sys.argv[1:2])))
