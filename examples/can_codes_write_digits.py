r"""Can codes write digits? `vq_vae` on MNIST: sentences of codes, and the grammar that writes new
ones.

First the guide `vector_quantized` and the story's decoder learn the codes, the grammar left out.
Then the codes stay as they are: the sentences of the training pictures, drawn in black and white
several times, are data, and the grammar alone learns them, up to the epoch that is best on
validation pictures.

Written down are the ELBO of test pictures (the guide is certain of its codes, so it is log p(x,
codes)) and its parts; and how far a network that was trained on the grey digits can read what the
story writes: the share that it is more than 0.9 sure of, for held-out digits, for digits
pictures_and_codes in codes, for digits that the grammar writes, also at lower temperatures, and,
since a network is sure of much that is no digit, for codes in random order from the right places.
Writes `examples/results/can_codes_write_digits.json` and, where a folder is named, a picture of
all.
"""

import json
import sys
import time
from math import log
from pathlib import Path
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import ppvae
from ppvae.data import Request, load_request
from ppvae.nets import ConvEncoder

SEED, SURE, PIECE = 0, 0.9, 5000
COPIES = 3  # black-and-white drawings of each training picture that the grammar learns from
TEMPERATURES = (1.0, 0.8, 0.6)
RESULTS = Path(__file__).parent / "results" / "can_codes_write_digits.json"


class Nothing(PyroModule):
    """The guide where nothing is latent."""

    def forward(self, batch: Any) -> None:
        pass


def sentences(story: Any, guide: Any, rows: ppvae.data.Rows, seed: int) -> dict[str, Tensor]:
    """Pictures and the codes that the guide gives them: data in which nothing is latent."""
    x = rows.binarize_once(seed).tensors["x"]
    codes = []
    for piece in x.split(PIECE):
        problem = ppvae.Problem.of(story, guide, {"x": piece})
        with torch.no_grad(), problem.eval_mode(SEED):
            codes.append(problem.draw(1).values["codes"][0])
    return {"x": x, "codes": torch.cat(codes)}


def learned(
    train: ppvae.data.Rows, valid: ppvae.data.Rows, epochs: tuple[int, int], width: int
) -> tuple[Any, Any, list[float]]:
    """Story and guide after both stages, and the seconds that each took."""
    torch.manual_seed(SEED)
    story: Any = ppvae.stories.load("vq_vae", train.head(100).batch(), grammar_width=width)
    guide = ppvae.guides.build("vector_quantized", story, train)
    story.grammar.requires_grad_(False)
    first = ppvae.fit(story, guide, train, epochs=epochs[0], seed=SEED)
    story.decoder.requires_grad_(False)
    story.grammar.requires_grad_(True)
    copies = [sentences(story, guide, train, seed) for seed in range(COPIES)]
    pictures_and_codes = {k: torch.cat([copy[k] for copy in copies]) for k in copies[0]}
    second = ppvae.fit(
        story, Nothing(), pictures_and_codes, val=sentences(story, guide, valid, SEED),
        epochs=epochs[1], batch_size=200, lr=2e-3, seed=SEED,
    )  # fmt: skip
    return story, guide, [round(first.seconds, 1), round(second.seconds, 1)]


def reader_of(grey: Tensor, digit: Tensor, epochs: int) -> nn.Module:
    """A network that reads digits off grey pictures, `(B, P)` to log odds `(B, 10)`."""
    side = round(grey.shape[1] ** 0.5)
    torch.manual_seed(SEED)
    seen = ConvEncoder((1, side, side), 100, channels=(16, 32))
    reader = nn.Sequential(
        nn.Unflatten(1, (1, side, side)), seen, nn.Dropout(0.3), nn.Linear(100, 10)
    )
    optimiser = torch.optim.Adam(reader.parameters(), 1e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(grey)).split(100):
            loss = nn.functional.cross_entropy(reader(grey[index]), digit[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return reader.eval()


def sure_of(reader: nn.Module, pictures: Tensor) -> float:
    """Share of the pictures that the reader is more than 0.9 sure of."""
    with torch.no_grad():
        return float((reader(pictures).softmax(-1).amax(-1) > SURE).float().mean())


def shuffled(codes: Tensor) -> Tensor:
    """Sentences `(B, M, K)` whose codes stand where they stood, each from another row."""
    torch.manual_seed(SEED)
    places = [place[torch.randperm(len(place))] for place in codes.unbind(1)]
    return torch.stack(places, 1)


def main(
    data: str = "mnist",
    rows: int | None = None,
    test_rows: int = 2000,
    epochs: tuple[int, int] = (20, 12),
    grammar_width: int = 128,
    reader_epochs: int = 2,
    results: Path | None = RESULTS,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """Train in two stages, measure on test pictures, write new ones, and have all read."""
    train, valid = (load_request(Request(data, rows=rows), split) for split in ("train", "valid"))
    test = load_request(Request(data), "test").head(test_rows)
    story, guide, seconds = learned(train, valid, epochs, grammar_width)
    pictures_and_codes = sentences(story, guide, test, SEED)
    grey, held_out = (
        load_request(Request(data, binarize="none", labels="all"), s).tensors
        for s in ("train", "test")
    )
    start = time.perf_counter()
    reader = reader_of(grey["x"], grey["y"].long(), reader_epochs)
    places, num_codes = story.grammar.shape

    def drawn(codes: Tensor) -> Tensor:
        with torch.no_grad():
            return story.decoder((codes @ story.codebook).flatten(-2)).sigmoid()

    with torch.no_grad():
        problem = ppvae.Problem.of(story, None, {"x": pictures_and_codes["x"]})
        by_site = problem.log_joint_by_site({"codes": pictures_and_codes["codes"][None]})
        log_x, log_codes = float(by_site["x"].mean()), float(by_site["codes"].mean())
        answers = reader(held_out["x"][:test_rows]).argmax(-1)
    shown = {
        "digits": held_out["x"][:test_rows],
        "in codes": drawn(pictures_and_codes["codes"]),
        "codes at random": drawn(shuffled(pictures_and_codes["codes"])),
    }
    for temperature in TEMPERATURES:
        story.temperature = temperature
        written = ppvae.generate(story, test_rows, mean=True, seed=SEED)["x"]
        shown[f"written at {temperature:g}"] = written
    story.temperature = 1.0
    found = {
        "data": data,
        "rows": len(train),
        "test_rows": test_rows,
        "seed": SEED,
        "epochs": epochs,
        "copies": COPIES,
        "grammar_width": grammar_width,
        "places": places,
        "codes": num_codes,
        "torch": torch.__version__,
        "seconds": seconds,
        "seconds_reading": round(time.perf_counter() - start, 1),
        "elbo": log_x + log_codes,
        "log_x_given_codes": log_x,
        "log_codes": log_codes,
        "log_codes_all_alike": -places * log(num_codes),
        "share_of_codes_in_use": float(
            (pictures_and_codes["codes"].flatten(0, 1).sum(0) > 0).float().mean()
        ),
        "reader_is_right": float((answers == held_out["y"][:test_rows]).float().mean()),
        "reader_is_sure": {name: sure_of(reader, some) for name, some in shown.items()},
    }
    if results is not None:
        results.write_text(json.dumps(found))
    if pictures is not None:
        rows_of_12 = {name: some[:12] for name, some in shown.items()}
        rows_of_12["more at 1"] = shown["written at 1"][12:24]
        ppvae.plots.image_grid(rows_of_12).savefig(pictures / "codes.png", dpi=100)
    return found


def table(found: dict[str, Any]) -> str:
    """The ELBO and its parts, nats per picture, and what the reader is sure of."""
    return "\n".join(
        [
            f"{found['places']} places, {found['codes']} codes "
            f"({found['share_of_codes_in_use']:.0%} in use)",
            f"  log p(x | codes)  {found['log_x_given_codes']:8.2f}",
            f"  log p(codes)      {found['log_codes']:8.2f}   all alike "
            f"{found['log_codes_all_alike']:.2f}",
            f"  ELBO              {found['elbo']:8.2f}   nats per picture",
            f"read with more than {SURE:.0%} confidence, by a network that reads "
            f"{found['reader_is_right']:.1%} of held-out digits rightly:",
            *(f"  {name:<18} {share:6.1%}" for name, share in found["reader_is_sure"].items()),
        ]
    )


if __name__ == "__main__":
    print(table(main(pictures=Path(sys.argv[1]) if sys.argv[1:] else None)))
