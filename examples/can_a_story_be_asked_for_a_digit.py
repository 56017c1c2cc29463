r"""Can a story be asked for a digit? `conditional_vae` on MNIST, and a classifier that reads what
it writes.

The story is asked for as many digits of each class. A classifier (scikit-learn's, one hidden layer)
that was trained on the same rows reads them: the drawn black-and-white pictures, and the chances of
ink as shades of grey. The share that it reads as what was asked for stands beside its share on test
rows; clean digits are read better than real ones. With many causes beside the class the rows fill
only a part of the prior, and what is drawn elsewhere is no digit; with few the rows themselves are
told worse (ELBO). Writes `examples/results/can_a_story_be_asked_for_a_digit.json` and, where a
folder is named, a picture of digits by class.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from sklearn.neural_network import MLPClassifier
from torch import Tensor

import ppvae
from ppvae.data import Request, Rows, load_request

SEED, BATCH_SIZE, LR = 0, 100, 1e-3
SHOWN, PICTURED = 14, 2  # digits of a class, of the story with so many causes
RESULTS = Path(__file__).parent / "results" / "can_a_story_be_asked_for_a_digit.json"


def right(reader: MLPClassifier, x: Tensor, y: Tensor) -> Tensor:
    """Whether each row `(N, P)` is read as its class `(N,)`."""
    return torch.tensor(reader.predict(x.numpy()) == y.numpy()).double()


def share(marks: Tensor) -> tuple[float, float]:
    """Of marks `(N,)` of 0 and 1, with its standard error."""
    return float(marks.mean()), float(marks.std() / len(marks) ** 0.5)


def asked_of(
    train: Rows, test: Rows, latent_dim: int, epochs: int, asked: Tensor
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """ELBO and seconds of a story, and the digits it writes when it is asked for the classes
    `(N,)`, drawn and as chances of ink."""
    torch.manual_seed(SEED)
    story = ppvae.stories.load("conditional_vae", train.head(100).batch(), latent_dim=latent_dim)
    guide = ppvae.guides.build("mean_field", story, train)
    history = ppvae.fit(story, guide, train, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, seed=SEED)
    elbo = ppvae.elbo(story, guide, test, num_particles=20, seed=SEED).mean()
    written = {
        name: ppvae.generate(story, len(asked), mean=mean, seed=SEED, y=asked)["x"]
        for name, mean in {"drawn": False, "means": True}.items()
    }
    numbers = {"elbo": float(elbo.value), "elbo_std_error": float(elbo.std_error)}
    return {**numbers, "seconds": round(history.seconds, 1)}, written


def main(
    data: str = "mnist",
    rows: int | None = 20_000,
    epochs: int = 25,
    a_class: int = 200,
    causes: tuple[int, ...] = (2, 8, 20),
    results: Path | None = RESULTS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train stories and reader, ask each for `a_class` digits of each class, and read them."""
    request = Request(data, rows=rows, labels="all", binarize="static")
    train, test = (load_request(request, split) for split in ("train", "test"))
    reader = MLPClassifier((200,), early_stopping=True, random_state=SEED)
    reader.fit(train.tensors["x"].numpy(), train.tensors["y"].numpy())
    asked = torch.arange(10.0).repeat_interleave(a_class)
    found: dict[str, Any] = {
        "data": data,
        "rows": len(train),
        "seed": SEED,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "a_class": a_class,
        "torch": torch.__version__,
        "test_rows": share(right(reader, test.tensors["x"], test.tensors["y"])),
        "causes": {},
    }
    for latent_dim in causes:
        numbers, written = asked_of(train, test, latent_dim, epochs, asked)
        read = {name: share(right(reader, x, asked)) for name, x in written.items()}
        found["causes"][str(latent_dim)] = {**numbers, **read}
        if results is not None:
            results.write_text(json.dumps(found))
        if pictures is not None and latent_dim == PICTURED:
            by_class = written["means"].reshape(10, a_class, -1)[:, :SHOWN]
            sheet = ppvae.plots.image_grid({str(k): one for k, one in enumerate(by_class)})
            sheet.savefig(pictures / "asked_for_digits.png", dpi=70)
    return found


def table(found: dict[str, Any]) -> str:
    """Shares that are read as what was asked for."""
    lines = [
        f"{found['data']}: share that a classifier reads as what was asked for (test rows "
        f"{found['test_rows'][0]:.1%})",
        "causes   drawn            chances of ink   ELBO of test rows",
    ]
    for latent_dim, one in found["causes"].items():
        drawn, means = (f"{one[k][0]:.1%} ± {one[k][1]:.1%}" for k in ("drawn", "means"))
        lines.append(
            f"{latent_dim:>6}   {drawn:<16} {means:<16} {one['elbo']:.2f} ± "
            f"{one['elbo_std_error']:.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
