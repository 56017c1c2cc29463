r"""HTML from the templates of this room. Every text is escaped."""

__all__ = ["render"]

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    loader = PackageLoader("ppvae.viz", "templates")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def render(template: str, **context: Any) -> str:
    """Fill a template.

    Arguments:
        template: A file in `ppvae/viz/templates`.
        context: What it shows.
    """
    return _environment().get_template(template).render(**context)
