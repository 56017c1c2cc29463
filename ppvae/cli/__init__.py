r"""The command line: parses, calls, prints. Nothing heavy is imported before a command runs.

Reading order: `options` (what commands share, made from the records of settings), `resolve` (from
what was typed, or a run folder, to story, guides and rows), `train`, `measure`, `ask`, `stories`
(the commands), `output` (what they print and write), `main` (the entry point, and errors).
"""

from ppvae.cli.main import main

__all__ = ["main"]
