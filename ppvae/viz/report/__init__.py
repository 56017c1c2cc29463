r"""One page that tells what a comparison of guides found, for readers who do not run it.

`words` says in sentences what the numbers show, `figures` draws them, `html` lays out the page, and
`page` puts the three together.
"""

from ppvae.viz.report.page import report

__all__ = ["report"]
