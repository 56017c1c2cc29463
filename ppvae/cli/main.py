r"""The entry point: what was typed goes in, an exit code comes out, an error is one line."""

__all__ = ["app", "main", "spread_lists"]

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from ppvae.cli import gallery, measure, predict
from ppvae.cli.diagnose import diagnose
from ppvae.cli.estimators import estimators
from ppvae.cli.evidence import evidence
from ppvae.cli.run import recall

BAD_INPUT, OTHER_ERROR, INTERRUPTED = 2, 1, 130
GRACE = 3.0  # seconds after which torchrun has ended the others, had the first process met the same

# Options that take several names.
LISTS = ("--guides", "--method", "--objectives")
# Pyro appends a table of shapes to errors inside a model.
SHAPE_TABLE = "Trace Shapes:"
# What typer raises for a wrong command line. Its place differs between typer's versions, its heirs
# do not.
COMMAND_LINE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback(no_args_is_help=True)
def ppvae(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Variational autoencoders as probabilistic programs: fit guides, and measure in nats what they
    lose."""


COMMANDS: tuple[Callable[..., None], ...] = (
    measure.compare,
    measure.fit,
    measure.gaps,
    evidence,
    diagnose,
    estimators,
    gallery.check,
    gallery.generate,
    predict.reconstruct,
    predict.impute,
    predict.traverse,
    gallery.new,
)
for command in COMMANDS:
    app.command()(command)
app.command("list")(gallery.list_)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments:
        arguments: What was typed after `ppvae`; None takes it from the process.

    Returns:
        The exit code: 0, 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM in training, 1 for any other error.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed
    rest = spread_lists([word for word in typed if word != "--debug"])
    try:
        rest = recall(rest, COMMANDS)
        with _plain_warnings(), _together():
            code = app(args=rest, prog_name="ppvae", standalone_mode=False, obj=typed)
        if code == INTERRUPTED:  # what newer versions of typer make of Ctrl-C
            return _say("interrupted", INTERRUPTED)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)
    except SystemExit as end:
        return _say("terminated", end.code if isinstance(end.code, int) else OTHER_ERROR)
    except COMMAND_LINE_ERROR as error:
        message = getattr(error, "format_message", error.__str__)()
        return _say(message or "expected a command; see ppvae --help", BAD_INPUT)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ValueError):
            return _say(str(error), BAD_INPUT)
        said, place = str(error).partition(SHAPE_TABLE)[0].strip(), _place(error)
        if isinstance(error, ConnectionError):
            return _say(said, OTHER_ERROR)
        said = f"{type(error).__name__}: {said}{place} (--debug shows the traceback)"
        return _say(said, OTHER_ERROR)


def spread_lists(words: Sequence[str]) -> list[str]:
    """Let one option take several names: `--guides a b` becomes `--guides a,b`."""
    spread: list[str] = []
    taking = False
    for word in words:
        starts = word in LISTS
        if word.startswith("-"):
            taking = False
        if taking and spread[-1] not in LISTS:
            spread[-1] += f",{word}"
        else:
            spread.append(word)
        taking = taking or starts
    return spread


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
def _together() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; the first one speaks for all."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    from ppvae.training.distributed import is_main_process, process_group

    with process_group():
        if is_main_process():
            yield
        else:
            with (
                open(os.devnull, "w") as nowhere,
                redirect_stdout(nowhere),
                redirect_stderr(nowhere),
            ):
                yield


def _place(error: BaseException) -> str:
    """Where in the user's own file, such as a story, an error came up; nothing for one of the machine."""
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
    number = int(os.environ.get("RANK", "0"))
    if number and code == BAD_INPUT:
        time.sleep(GRACE)  # what all processes meet the first one tells, and its end ends this one
    elif number and code != OTHER_ERROR:
        return code
    who = f"ppvae, process {number}" if number else "ppvae"
    message = message.partition(SHAPE_TABLE)[0]
    print(f"{who}: {' '.join(message.split())}", file=sys.stderr)
    return code
