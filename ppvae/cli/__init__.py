r"""The command line: parses, calls, prints. Nothing heavy is imported before a command runs.

`arguments` holds the options that commands share, `main` the entry point and what becomes of
errors, `measure` the commands that train and measure, `gallery` those about stories, `setup` what
they share; `predict` the commands that ask what is trained, `writing` their files.
"""

from ppvae.cli.main import main

__all__ = ["main"]
