r"""The entry point: what was typed goes in, an exit code comes out, an error is one line."""

__all__ = ["app", "main"]

import json
import os
import sys
import time
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import cyclopts
from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

import ppvae
from ppvae.cli import ask, measure, stories, train
from ppvae.cli.options import SHARED_FIELDS
from ppvae.cli.output import TYPED

BAD_INPUT, OTHER_ERROR, INTERRUPTED, TERMINATED = 2, 1, 130, 143
GRACE = 3.0  # seconds in which rank 0 reports an error that all processes have met

# Pyro appends a table of shapes to errors inside a model.
SHAPE_TABLE = "Trace Shapes:"
# Options that a config file may give as a mapping.
PAIRS = ("set", "objective_options")


app = App(
    name="ppvae",
    help="Variational autoencoders as probabilistic programs: fit guides, and measure in nats "
    "what they lose.",
    help_format="plaintext",
    version=lambda: ppvae.__version__,
    default_parameter=Parameter(negative=(), allow_repeating=True),
    result_action="return_none",
    suppress_keyboard_interrupt=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "compare": train.compare,
    "fit": train.fit,
    "gaps": measure.gaps,
    "evidence": measure.evidence,
    "diagnose": measure.diagnose,
    "estimators": measure.estimators,
    "generate": ask.generate,
    "reconstruct": ask.reconstruct,
    "impute": ask.impute,
    "traverse": ask.traverse,
    "check": stories.check,
    "new": stories.new,
    "list": stories.list_,
}
for number, (name, command) in enumerate(COMMANDS.items()):
    app.command(command, name, sort_key=number)
app.register_install_completion_command()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments:
        arguments: What was typed after `ppvae`; None takes it from the process.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM in training, 1 for
        any other error.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    TYPED.set(tuple(typed))
    try:
        app.config = _config_files(typed)
        with _plain_warnings(), _main_process_prints():
            app(typed, exit_on_error=False, print_error=False)
        return 0
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else OTHER_ERROR
        return _say("terminated", code) if code == TERMINATED else code
    except UnknownOptionError as error:
        return _say(_shared(error) or str(error), BAD_INPUT)
    except CycloptsError as error:
        return _say(str(error), BAD_INPUT)
    except Exception as error:
        if "--debug" in typed:
            raise
        if isinstance(error, ValueError):
            return _say(str(error), BAD_INPUT)
        message = str(error).partition(SHAPE_TABLE)[0].strip()
        if not isinstance(error, ConnectionError):
            where = f"{_place(error)} (--debug shows the traceback)"
            message = f"{type(error).__name__}: {message}{where}"
        return _say(message, OTHER_ERROR)


def _config_files(typed: Sequence[str]) -> tuple[Any, ...]:
    """The file of options that `--config` names, read by its ending."""
    paths = [path for word, path in pairwise(typed) if word == "--config"]
    paths += [word.partition("=")[2] for word in typed if word.startswith("--config=")]
    return tuple(
        cyclopts.config.Dict(_read(Path(path)), source=path, use_commands_as_keys=False)
        for path in paths
    )


def _read(path: Path) -> dict[str, Any]:
    """The options of a file; those of story and objective as NAME=VALUE words."""
    if path.suffix not in (".yaml", ".yml", ".json", ".toml") or not path.is_file():
        raise ValueError(f"expected --config to be a .yaml, .json or .toml file, got '{path}'")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            found: Any = tomllib.loads(text)
        else:
            import yaml

            found = yaml.safe_load(text)
    except Exception as error:
        raise ValueError(f"expected options in {path}, got: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected options by name in {path}, got {type(found).__name__}")
    for name in PAIRS:
        if isinstance(pairs := found.get(name), dict):
            found[name] = [f"{key}={json.dumps(value)}" for key, value in pairs.items()]
    return found


def _shared(error: UnknownOptionError) -> str | None:
    """What to give in place of an option that training and measuring both have."""
    keyword = error.token.keyword if error.token else None
    name = (keyword or "").strip("-[]").replace("-", "_")
    if name not in SHARED_FIELDS or "compare" not in (error.command_chain or ()):
        return None
    option = name.replace("_", "-")
    return (
        f"expected --train.{option} or --evidence.{option}, got --{option}: compare trains and "
        "measures, each with its own"
    )


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line each, without the line of code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *where, **more: f"ppvae: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _main_process_prints() -> Iterator[None]:
    """Set up the processes that torchrun started, if it did; rank 0 prints for all."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    from ppvae.training.distributed import is_main_process, process_group

    with process_group():
        if is_main_process():
            yield
        else:
            with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
                yield


def _place(error: BaseException) -> str:
    """Where in the user's own file an error came up; nothing for one of the machine."""
    if isinstance(error, OSError):
        return ""
    while error.__cause__ is not None:  # Pyro raises errors inside a model anew
        error = error.__cause__
    ours = str(Path(__file__).resolve().parent.parent)
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py")
        and not frame.filename.startswith(ours)
        and "site-packages" not in frame.filename
    ]
    return f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""


def _say(message: str, code: int) -> int:
    """Print an error as one line; of several processes that have met the same one, rank 0 does."""
    rank = int(os.environ.get("RANK", "0"))
    if rank and code == BAD_INPUT:
        time.sleep(GRACE)  # torchrun ends this process when rank 0 has ended
    elif rank and code != OTHER_ERROR:
        return code
    who = f"ppvae, process {rank}" if rank else "ppvae"
    message = message.partition(SHAPE_TABLE)[0]
    print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
    return code
