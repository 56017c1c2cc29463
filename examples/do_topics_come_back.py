r"""Do topics come back? `topic_model` on documents of known topics, and on Bach's chorales, where
topics turn out to be keys.

First, documents are simulated from known topics and a new story learns from their counts alone. Its
topics are matched one to one with the true ones (the matching with the least total variation in
all), and log p(x) of new documents under it is held against the true parameters, whose guide is
trained as long; both are lower bounds by importance sampling, paired over the documents.

Then the notes of each phrase of a chorale (16 quarter notes) are counted by pitch class, C to B,
and the story blends each phrase from a few topics. The rival is one topic for all phrases, the
share of each pitch class over the training phrases. Both are measured on test phrases given how
many notes they have: the total's own log p, a quadrature over the length, is taken off. What a
topic is, is told by the major scale that holds most of it. The data file is looked for in
`$PPVAE_DATA/JSBChorales`. Writes `examples/results/do_topics_come_back.json`.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import ppvae

SEED, LR, BATCH_SIZE, STEPS, KEY_TOPICS = 0, 1e-2, 50, 16, 8
RESULTS = Path(__file__).parent / "results" / "do_topics_come_back.json"
FILE = "JSBChorales/jsb-chorales-quarter.json"
NAMES = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"]
MAJOR = (0, 2, 4, 5, 7, 9, 11)


def trained(story: Any, x: Tensor, epochs: int) -> nn.Module:
    """A guide for the story after both were trained on counts `(N, V)`; a frozen story stays as it
    is."""
    torch.manual_seed(SEED)
    guide = ppvae.guides.build("full_rank", story, x, hidden=(64, 64))
    ppvae.fit(story, guide, x, epochs=epochs, batch_size=BATCH_SIZE, lr=LR, seed=SEED)
    return guide


def matched(found: Tensor, true: Tensor) -> list[float]:
    """Total variation between true topics `(K, V)` and those found, matched one to one."""
    distance = 0.5 * (found[:, None] - true[None]).abs().sum(-1)  # (K, K)
    rows, columns = linear_sum_assignment(distance.numpy())
    return sorted(distance[rows, columns].tolist())


def known_topics(documents: int, epochs: int, particles: int) -> dict[str, Any]:
    """Learn topics from simulated counts, and hold them against the truth."""
    torch.manual_seed(SEED)
    truth = ppvae.stories.load("topic_model").requires_grad_(False)
    x = ppvae.simulate(truth, documents + 500, seed=SEED)["x"]
    train, test = x[:documents], x[documents:]
    torch.manual_seed(SEED + 1)
    story: Any = ppvae.stories.load("topic_model", {"x": train})
    start, before = time.perf_counter(), story.topics.detach().softmax(-1)
    pairs = [(one, trained(one, train, epochs)) for one in (story, truth)]
    log_p, log_p_true = (
        ppvae.iwelbo(*pair, test, num_particles=particles, seed=SEED).value for pair in pairs
    )
    short = ppvae.Estimate.of_draws(log_p_true - log_p)
    topics = truth.topics.softmax(-1)
    return {
        "documents": documents,
        "test_documents": len(test),
        "words": x.shape[1],
        "topics": len(topics),
        "total_variation_before": matched(before, topics),
        "total_variation": matched(story.topics.detach().softmax(-1), topics),
        "log_p": float(log_p.mean()),
        "log_p_true_parameters": float(log_p_true.mean()),
        "below_the_truth": float(short.value),
        "below_the_truth_std_error": float(short.std_error),
        "seconds": round(time.perf_counter() - start, 1),
    }


def phrases(chorales: list[list[list[int]]]) -> Tensor:
    """Counts of pitch classes of each whole phrase, `(N, 12)`."""
    counts = []
    for chorale in chorales:
        for first in range(0, len(chorale) - STEPS + 1, STEPS):
            notes = [note % 12 for step in chorale[first : first + STEPS] for note in step]
            counts.append(torch.tensor(notes).bincount(minlength=12))
    return torch.stack(counts).float()


def log_total(story: Any, total: Tensor) -> Tensor:
    """log p of the number of words of a document, `(N,)` to `(N,)`: its length summed over on a
    grid."""
    log_length, spread = story.log_length.detach(), story.length_spread.detach()
    offsets = torch.linspace(-5, 5, 401)
    weights = dist.Normal(0.0, 1.0).log_prob(offsets).log_softmax(0)
    rate = (log_length + spread * offsets).exp()
    return (weights + dist.Poisson(rate).log_prob(total[:, None])).logsumexp(-1)


def scale_of(topic: Tensor) -> dict[str, Any]:
    """The major scale that holds most of a topic `(12,)`, and how much."""
    held = [float(topic[[(key + step) % 12 for step in MAJOR]].sum()) for key in range(12)]
    best = max(range(12), key=held.__getitem__)
    return {"scale": NAMES[best], "share": held[best]}


def keys_of_bach(epochs: int, particles: int) -> dict[str, Any]:
    """Learn topics of pitch classes from chorales, and measure perplexity of the test chorales."""
    chorales = json.loads((Path(os.environ["PPVAE_DATA"]) / FILE).read_text(encoding="utf-8"))
    train, test = (phrases(chorales[part]) for part in ("train", "test"))
    torch.manual_seed(SEED)
    story: Any = ppvae.stories.load("topic_model", {"x": train}, num_topics=KEY_TOPICS)
    start = time.perf_counter()
    guide = trained(story, train, epochs)
    total = test.sum(1)
    log_x = ppvae.iwelbo(story, guide, test, num_particles=particles, seed=SEED).value
    log_shares = log_x - log_total(story, total)
    usual = train.sum(0) / train.sum()
    log_usual = dist.Multinomial(probs=usual, validate_args=False).log_prob(test)
    gain = ppvae.Estimate.of_draws(log_shares - log_usual)
    topics = story.topics.detach().softmax(-1)
    weight = story.shares(ppvae.embed(story, guide, train, seed=SEED)["z"].value).mean(0)
    order = weight.argsort(descending=True).tolist()
    return {
        "phrases": len(train),
        "test_phrases": len(test),
        "notes_a_phrase": float(total.mean()),
        "topics": [{**scale_of(topics[k]), "weight": float(weight[k])} for k in order],
        "all_notes": scale_of(usual),
        "gain_nats_a_phrase": float(gain.value),
        "gain_std_error": float(gain.std_error),
        "nats_a_note": nats_a_note(log_shares, test),
        "nats_a_note_one_topic": nats_a_note(log_usual, test),
        "seconds": round(time.perf_counter() - start, 1),
    }


def nats_a_note(log_counts: Tensor, counts: Tensor) -> float:
    """log p of notes in order, per note: that of the counts without the number of orders."""
    total = counts.sum(1)
    orders = (total + 1).lgamma() - (counts + 1).lgamma().sum(1)
    return float((log_counts - orders).sum() / total.sum())


def main(
    documents: int = 2000,
    epochs: tuple[int, int] = (100, 150),
    particles: int = 500,
    results: Path | None = RESULTS,
) -> dict[str, Any]:
    """Both runs."""
    found: dict[str, Any] = {
        "seed": SEED,
        "epochs": epochs,
        "batch_size": BATCH_SIZE,
        "lr": LR,
        "particles": particles,
        "steps_a_phrase": STEPS,
        "torch": torch.__version__,
    }
    found["known_topics"] = known_topics(documents, epochs[0], particles)
    found["chorales"] = keys_of_bach(epochs[1], particles)
    if results is not None:
        results.write_text(json.dumps(found))
    return found


def table(found: dict[str, Any]) -> str:
    """How far topics are from the truth; what topics of chorales are."""
    one, other = found["known_topics"], found["chorales"]
    return "\n".join(
        [
            f"{one['documents']} documents of {one['topics']} known topics, {one['words']} words",
            "  total variation to the true topics  "
            + "  ".join(f"{v:.3f}" for v in one["total_variation"])
            + f"   (untrained {min(one['total_variation_before']):.2f} and more)",
            f"  new documents below the true parameters  {one['below_the_truth']:.2f} ± "
            f"{one['below_the_truth_std_error']:.2f} nats",
            f"{other['test_phrases']} phrases of test chorales, log p a note: "
            f"{other['nats_a_note']:.3f} nats, of one topic "
            f"{other['nats_a_note_one_topic']:.3f}; a phrase gains "
            f"{other['gain_nats_a_phrase']:.2f} ± "
            f"{other['gain_std_error']:.2f}",
            f"  all notes: {other['all_notes']['share']:.0%} in {other['all_notes']['scale']} "
            "major; topics: "
            + ", ".join(f"{t['share']:.0%} in {t['scale']}" for t in other["topics"]),
        ]
    )


if __name__ == "__main__":
    print(table(main()))
