r"""Options that commands share; those of training and measuring come from `ppvae.config`."""

__all__ = [
    "SHARED_FIELDS",
    "Data",
    "Figure",
    "Guide",
    "Measure",
    "MeasureBeside",
    "MeasureEach",
    "Output",
    "Pairs",
    "Rows",
    "Seed",
    "Spread",
    "Story",
    "Subject",
    "Train",
    "TrainBeside",
    "Words",
    "as_train_config",
    "parse_named",
    "parse_pairs",
]

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from cyclopts import Parameter, Token

from ppvae.config import Config, EvidenceConfig, TrainConfig, option

AUTO_OBJECTIVE = "auto"
# Names that mean one thing in training and another in measuring.
SHARED_FIELDS = tuple(
    f.name
    for f in fields(TrainConfig)
    if f.name in {g.name for g in fields(EvidenceConfig)} - {"progress"}
)


def parse_pairs(words: Iterable[str]) -> dict[str, Any]:
    """`NAME=VALUE` words as options: the value is JSON where it is JSON, else a string.

    Raises:
        ValueError: If a word has another form.
    """
    options = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"expected NAME=VALUE, got '{word}'")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options


def parse_named(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME:OPTION=VALUE:...`, of a guide or an objective, as a name and its options."""
    name, *pairs = text.split(":")
    return name, parse_pairs(pairs)


def _convert_pairs(hint: Any, tokens: Sequence[Token]) -> dict[str, Any]:
    return parse_pairs(token.value for token in tokens)


Pairs = Annotated[
    Mapping[str, Any],
    Parameter(
        converter=_convert_pairs,
        accepts_keys=False,
        consume_multiple=True,
        n_tokens=-1,
        show_default=False,
    ),
]


def _options_of(
    config: type[Config],
    group: str,
    *,
    prefix: str = "",
    prefixed: Collection[str] = (),
    without: Collection[str] = ("progress",),
) -> Any:
    """A subclass of a record of settings whose fields are options of the command line.

    Arguments:
        config: The settings; each field becomes an option of its name.
        group: Heading in the help.
        prefix: What stands before the names in `prefixed`, as in `--train.seed`.
        prefixed: Fields whose bare names mean something else in the command.
        without: Fields that the command sets by itself, or by an option of another record.
    """
    hints = get_type_hints(config)
    hints |= {"objective_options": Pairs} if "objective_options" in hints else {}
    made: list[tuple[str, Any, Field[Any]]] = []
    for f in fields(config):
        given: dict[str, Any] = {"default": f.default, "metadata": f.metadata}
        if f.default_factory is not MISSING:
            given = {"default_factory": f.default_factory, "metadata": f.metadata}
        if f.name == "objective":
            given = {"default": AUTO_OBJECTIVE, "metadata": OBJECTIVE_HELP}
        dotted = f"{prefix}." if f.name in prefixed else ""
        name = f"--{dotted}{f.name.replace('_', '-')}"
        how = Parameter(name=name, group=group, parse=f.name not in without)
        made.append((f.name, Annotated[hints[f.name], how], field(**given)))
    return make_dataclass(
        config.__name__, made, bases=(config,), frozen=True, kw_only=True,
        namespace={"__module__": __name__},
    )  # fmt: skip


OBJECTIVE_HELP = {
    "help": "Training loss, NAME[:OPTION=VALUE], see `ppvae list objectives`; auto: "
    "trace_elbo, or wake_sleep where the "
    "story simulates its rows and has nothing to learn."
}

if TYPE_CHECKING:
    from ppvae.config import EvidenceConfig as Measure
    from ppvae.config import EvidenceConfig as MeasureBeside
    from ppvae.config import EvidenceConfig as MeasureEach
    from ppvae.config import TrainConfig as Train
    from ppvae.config import TrainConfig as TrainBeside
else:
    Train = Parameter(name="*")(_options_of(TrainConfig, "Training"))
    TrainBeside = Parameter(name="*")(
        _options_of(TrainConfig, "Training", prefix="train", prefixed=SHARED_FIELDS)
    )
    Measure = Parameter(name="*")(_options_of(EvidenceConfig, "Measuring"))
    MeasureEach = Parameter(name="*")(
        _options_of(EvidenceConfig, "Measuring", without=("progress", "method"))
    )
    MeasureBeside = Parameter(name="*")(
        _options_of(EvidenceConfig, "Measuring", prefix="evidence", prefixed=SHARED_FIELDS)
    )


def as_train_config(train: TrainConfig, *, simulates: bool, progress: bool) -> TrainConfig:
    """The settings with the objective taken apart into its name and options, and `auto` resolved.

    Arguments:
        train: As typed.
        simulates: Whether the story simulates its rows and has nothing to learn.
        progress: Whether to show progress.
    """
    name, options = parse_named(train.objective)
    if name == AUTO_OBJECTIVE:
        name = "wake_sleep" if simulates else "trace_elbo"
        if simulates:
            print(
                "objective wake_sleep: the story has nothing to learn; the guide learns from "
                "fresh rows",
                file=sys.stderr,
            )
    values = {f.name: getattr(train, f.name) for f in fields(TrainConfig)}
    values["objective_options"] = options | dict(train.objective_options)
    return TrainConfig(**values | {"objective": name, "progress": progress})


@Parameter(name="*", group="Data and story")
@dataclass(frozen=True, kw_only=True)
class Data:
    """Which rows, and how the story is built for them."""

    data: str | None = option(
        None,
        "A data set by name, a file, or `simulated`, with options as in digits:labels=100, "
        "mnist:rows=5000:missing=0.5, "
        "cifar10:images=true, big.npy:mapped=true; else the example of the story.",
    )
    data_root: Path | None = option(None, "Folder of the data sets.")
    binarize: str | None = option(
        None, "static, dynamic, threshold or none; else as is usual for the data."
    )
    set: Pairs = field(
        default_factory=dict,
        metadata={"help": "Options of the story, NAME=VALUE: latent_dim=2 hidden=[64,64]."},
    )


@Parameter(name="*", group="Guide")
@dataclass(frozen=True, kw_only=True)
class Guide:
    """Which guide, and where its weights are."""

    guide: str | None = option(
        None,
        "Family with options, NAME[:OPTION=VALUE...], as in iaf:hidden=[64,64], see `ppvae "
        "list guides`; of a comparison, "
        "the guide to take; else one that suits the story.",
    )
    weights: Path | None = option(
        None, "Folder of `ppvae.save`, beside story, data and guide; without weights, train first."
    )


@Parameter(name="*", group="Output")
@dataclass(frozen=True, kw_only=True)
class Output:
    """What is shown, and where options come from."""

    json: bool = option(False, "Print the result as JSON.")
    progress: Annotated[bool, Parameter(negative="--no-progress")] = option(
        True, "Show progress on a terminal."
    )
    config: Path | None = option(None, "A YAML, JSON or TOML file of options, by their names.")
    debug: bool = option(False, "Show the traceback of an error.")

    @property
    def shows_progress(self) -> bool:
        """Whether there is a terminal to show progress on."""
        return self.progress and sys.stderr.isatty()


@Parameter(name="*", group="Measuring")
@dataclass(frozen=True, kw_only=True)
class Spread:
    """Over which processes the rows are spread."""

    workers: int | None = option(None, "Measure in so many processes.")
    dask: str | None = option(None, "Measure on a Dask cluster: the address of its scheduler.")

    def executor(self) -> AbstractContextManager[Any]:
        """A `concurrent.futures.Executor` for the block; None where rows are not spread.

        Raises:
            ValueError: If both are given, or Dask is not installed.
        """
        if self.workers is not None and self.dask is not None:
            raise ValueError("expected --workers or --dask, got both")
        if self.dask is not None:
            try:
                from distributed import Client
            except ImportError as error:
                raise ValueError(
                    "expected dask.distributed for --dask; install it: pip install distributed"
                ) from error
            return Client(self.dask).get_executor()
        if self.workers is None or self.workers < 2:
            return nullcontext()
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        return ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured or asked: rows, guide, and how to train where there are no weights."""

    data: Data = Data()
    guide: Guide = Guide()
    train: TrainBeside = TrainBeside()  # noqa: RUF009
    output: Output = Output()


Words = Annotated[
    tuple[str, ...], Parameter(consume_multiple=True, show_default=False)
]  # one option takes several
Story = Annotated[
    str,
    Parameter(
        help="A story of the gallery or a file, my_story.py or my_story.py:ClassName. Where "
        "something is measured, also "
        "the folder of a run of `ppvae fit` or `ppvae compare`: it stands for story, data, "
        "guide and weights."
    ),
]
Rows = Annotated[int, Parameter(help="Test rows to measure on, the first so many.")]
Seed = Annotated[int, Parameter(help="Seed of all draws.")]
Figure = Annotated[Path | None, Parameter(help="Save the figure as .png, .pdf or .svg.")]
