r"""Arguments and options that commands share, with their help."""

__all__ = [
    "Accumulate",
    "BatchSize",
    "Binarize",
    "Checkpoint",
    "CheckpointEvery",
    "ClipNorm",
    "Data",
    "DataRoot",
    "Decoder",
    "DecoderChoice",
    "Device",
    "Epochs",
    "EvidenceChoice",
    "ExponentialMovingAverage",
    "Guide",
    "Guides",
    "KLWarmup",
    "LearningRate",
    "MaxSkips",
    "Objective",
    "ObjectiveSet",
    "Optimizer",
    "Particles",
    "Patience",
    "Precision",
    "Quiet",
    "Resume",
    "Rows",
    "RunDir",
    "Schedule",
    "Seed",
    "Set",
    "Story",
    "Weights",
]

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Decoder(StrEnum):
    """Whose story each guide is measured on."""

    SHARED = "shared"
    OWN = "own"


Story = Annotated[
    str,
    Argument(
        help="A story of the gallery, a file (my_story.py, my_story.py:ClassName), or, to measure what "
        "is trained, the folder of a run: it stands for the story, data, guide and weights of ppvae fit."
    ),
]
Data = Annotated[
    str | None,
    Option(
        "--data",
        help="A data set by name, the path of a file, or simulated (rows of the story's own), each with options as in "
        "digits:labels=100, mnist:rows=5000:missing=0.5, cifar10:images=true, big.npy:mapped=true; else the story's own example.",
    ),
]
DataRoot = Annotated[Path | None, Option("--data-root", help="Folder of the data sets.")]
Binarize = Annotated[
    str | None, Option("--binarize", help="static, dynamic, threshold or none; else as is usual.")
]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="NAME=VALUE", help="Option of the story; may be repeated."),
]
Guide = Annotated[
    str | None,
    Option(
        "--guide",
        metavar="NAME[:OPTION=VALUE]",
        help="Family of the guide, with its options if any, see ppvae list guides; else one that suits the story.",
    ),
]
Guides = Annotated[
    list[str] | None,
    Option(
        "--guides",
        metavar="NAME[:OPTION=VALUE]...",
        help="Families to compare, with options if any; else three that suit.",
    ),
]
DecoderChoice = Annotated[
    Decoder, Option("--decoder", help="One trained story for all guides, or one each.")
]
Objective = Annotated[
    str | None,
    Option(
        "--objective",
        metavar="NAME[:OPTION=VALUE]",
        help="Training loss, with options if any, see ppvae list objectives; else one that suits.",
    ),
]
ObjectiveSet = Annotated[
    list[str] | None,
    Option(
        "--objective-set", metavar="NAME=VALUE", help="Option of the objective; may be repeated."
    ),
]
Accumulate = Annotated[
    int, Option("--accumulate", min=1, help="Pieces of a batch, one after the other in memory.")
]
ExponentialMovingAverage = Annotated[
    float,
    Option("--ema-decay", help="Decay of an average of the weights, which is then kept; 0.999."),
]
ClipNorm = Annotated[
    float | None,
    Option("--clip-norm", help="Largest norm of the gradient; else ten times its running mean."),
]
KLWarmup = Annotated[
    int, Option("--kl-warmup", min=0, help="Epochs over which the latent terms grow to 1.")
]
MaxSkips = Annotated[int, Option("--max-skips", min=0, help="Steps that may lack a finite loss.")]
Precision = Annotated[
    str, Option("--precision", help="auto, float32, float64, or bfloat16 in networks alone.")
]
Schedule = Annotated[
    str, Option("--schedule", help="constant_then_linear, cosine or constant learning rate.")
]
Epochs = Annotated[int, Option("--epochs", min=1, help="Passes over the training rows, at most.")]
BatchSize = Annotated[int, Option("--batch-size", min=1, help="Rows a step.")]
Optimizer = Annotated[str, Option("--optimizer", help="adam, sgd, rmsprop or adagrad.")]
LearningRate = Annotated[float, Option("--lr", help="Step size of the optimiser.")]
Patience = Annotated[
    int | None, Option("--patience", min=1, help="Epochs without a better validation ELBO.")
]
Rows = Annotated[int, Option("--rows", min=1, help="Test rows to measure on.")]
EvidenceChoice = Annotated[
    str,
    Option("--evidence", help="How log p(x) is found: auto, best, exact, iwae, ais or quadrature."),
]
Particles = Annotated[int, Option("--particles", min=1, help="Particles of each row.")]
Seed = Annotated[int, Option("--seed", help="Seed of everything but the data.")]
Device = Annotated[str, Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
RunDir = Annotated[
    Path | None, Option("--run-dir", help="Folder of the results; must be new or empty.")
]
Resume = Annotated[bool, Option("--resume", help="Go on with what is in --run-dir.")]
CheckpointEvery = Annotated[
    float,
    Option("--checkpoint-every", min=0, help="Seconds between checkpoints in an epoch."),
]
Checkpoint = Annotated[
    Path | None,
    Option(
        "--checkpoint",
        help="File that keeps the rows that are done; the same command goes on from it.",
    ),
]
Weights = Annotated[
    Path | None, Option("--weights", help="A run folder of ppvae fit; without it, train first.")
]
Quiet = Annotated[bool, Option("--no-progress", help="Show no progress bars.")]
