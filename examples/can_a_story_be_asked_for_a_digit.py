r"""Can a story be asked for a digit? `conditional_vae` on MNIST, and a classifier that reads what it writes.

The story is asked for as many digits of each class. A classifier (scikit-learn's, one hidden layer) that was trained on the same rows
reads them: the drawn black-and-white pictures, and the chances of ink as shades of grey. The share that it reads as what was asked for stands beside
its share on test rows, which no story can be expected to beat. Writes `examples/results/can_a_story_be_asked_for_a_digit.json` and, where a
folder is named, a picture of digits by class.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

import ppvae
from ppvae.data import Request, load_request
from ppvae.gallery import load_story
from ppvae.plots import image_grid
from ppvae.story import seeded

SEED, BATCH_SIZE, LR, SHOWN = 0, 100, 1e-3, 14
RESULTS = Path(__file__).parent / "results" / "can_a_story_be_asked_for_a_digit.json"


def right(reader: MLPClassifier, x: Tensor, y: Tensor) -> Tensor:
    """Whether each row `(N, P)` is read as its class `(N,)`."""
    return torch.tensor(reader.predict(x.numpy()) == y.numpy()).double()


def main(
    data: str = "mnist",
    rows: int | None = 20_000,
    epochs: int = 40,
    a_class: int = 200,
    results: Path | None = RESULTS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train story and reader, ask for `a_class` digits of each class, and read them."""
    train, test = (
        load_request(Request(data, rows=rows, labels="all", binarize="static"), split)
        for split in ("train", "test")
    )
    with seeded(SEED):
        story = load_story("conditional_vae", train.head(100).batch(), latent_dim=20)
        guide = ppvae.guides.build("mean_field", story, train)
    start = time.perf_counter()
    ppvae.fit(story, guide, train, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, seed=SEED)
    seconds = round(time.perf_counter() - start, 1)
    reader = MLPClassifier((200,), early_stopping=True, random_state=SEED)
    reader.fit(train.tensors["x"].numpy(), train.tensors["y"].numpy())
    asked = torch.arange(10.0).repeat_interleave(a_class)
    drawn, means = (
        ppvae.generate(story, len(asked), mean=mean, seed=SEED, y=asked)["x"]
        for mean in (False, True)
    )
    elbo = ppvae.elbo(story, guide, test, num_particles=20, seed=SEED).mean()
    shares = {
        "drawn": right(reader, drawn, asked), "means": right(reader, means, asked),
        "test_rows": right(reader, test.tensors["x"], test.tensors["y"]),
    }  # fmt: skip
    found = {
        "data": data, "rows": len(train), "seed": SEED, "epochs": epochs, "batch_size": BATCH_SIZE, "lr": LR,
        "a_class": a_class, "torch": torch.__version__, "seconds": seconds, "elbo": float(elbo.value),
        "read_as_asked": {name: float(one.mean()) for name, one in shares.items()},
        "std_error": {name: float(one.std() / len(one) ** 0.5) for name, one in shares.items()},
        "drawn_by_class": shares["drawn"].reshape(10, -1).mean(1).tolist(),
    }  # fmt: skip
    if results is not None:
        results.write_text(json.dumps(found))
    if pictures is not None:
        by_class = means.reshape(10, a_class, -1)[:, :SHOWN]
        image_grid({str(k): one for k, one in enumerate(by_class)}).savefig(
            pictures / "asked_for_digits.png", dpi=70
        )
    return found


def table(found: dict[str, Any]) -> str:
    """Shares that are read as what was asked for."""
    lines = [f"{found['data']}: share that a classifier reads as what was asked for"]
    for key, name in {
        "drawn": "drawn by the story", "means": "its chances of ink", "test_rows": "test rows",
    }.items():  # fmt: skip
        lines.append(
            f"  {name:<19} {found['read_as_asked'][key]:.1%} ± {found['std_error'][key]:.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
