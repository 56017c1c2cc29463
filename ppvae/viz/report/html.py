r"""Pieces of an HTML page that needs nothing but itself: every text escaped, every picture
inside."""

__all__ = [
    "bullets",
    "details",
    "paragraph",
    "picture",
    "preformatted",
    "section",
    "table",
    "whole",
]

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
html { background: #fff; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 66rem; color: #1c1c1c;
  font: 1rem/1.55 Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif; }
h1, h2, th, thead, .small, figcaption, pre { font-family: system-ui, -apple-system, "Segoe UI",
  "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.55rem; line-height: 1.25; font-weight: 650; margin: 0 0 1rem; letter-spacing:
-.01em; } h2 { font-size: 1.05rem; font-weight: 650; margin: 2.75rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid #d8d8d8; }
p { margin: 0 0 .8rem; max-width: 44rem; }
.lead { font-size: 1.2rem; line-height: 1.5; }
.lead p:first-child { font-weight: 600; }
.small, figcaption { font-size: .83rem; line-height: 1.5; color: #555; max-width: 46rem; }
ul { margin: 0 0 .8rem; padding-left: 1.2rem; max-width: 44rem; }
li { margin-bottom: .3rem; }
.wide { overflow-x: auto; margin: .4rem 0 .6rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums
lining-nums;
  font-family: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
th { text-align: right; vertical-align: bottom; font-weight: 600; border-bottom: 1.5px solid
#1c1c1c; } td { text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th, td { padding: .4rem 0 .4rem .8rem; }
td.text { white-space: normal; min-width: 4.5rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { font-weight: 600; white-space: nowrap; }
table.pairs td { white-space: normal; vertical-align: top; text-align: left; }
table.pairs td:first-child { white-space: nowrap; font-weight: 400; color: #555; }
figure { margin: .8rem 0 1.2rem; }
img { max-width: 100%; height: auto; display: block; }
pre { font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; background:
#f5f5f3;
  padding: .75rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding-top: 1.25rem; } h1 { font-size: 1.3rem; } .lead {
font-size: 1.08rem; }
  figure { overflow-x: auto; } figure img { max-width: none; width: 38rem; } } @media print { body {
  max-width: none; padding: 0; font-size: 10pt; } .wide
{ overflow: visible; }
  h2 { break-after: avoid; } figure, table { break-inside: avoid; }
  table { font-size: 7.5pt; } th, td { padding-left: .6rem; } pre { border: 1px solid #ccc; } }
"""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; `kind` names a style."""
    return f"<p{_kind(kind)}>{escape(text)}</p>"


def bullets(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def preformatted(text: str) -> str:
    """Text that keeps its form, such as a command."""
    return f"<pre>{escape(text)}</pre>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """A table of plain texts that scrolls by itself where the screen is narrow."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    below = paragraph(note, "small") if note else ""
    whole_table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{whole_table}</div>{below}'


def details(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and their values, one pair a line."""
    body = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in pairs)
    return f'<div class="wide"><table class="pairs"><tbody>{body}</tbody></table></div>'


def picture(png: bytes, alt: str, width: int, caption: str = "") -> str:
    """A PNG inside the page, `width` CSS pixels wide where there is room."""
    data = b64encode(png).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    source = f'src="data:image/png;base64,{data}"'
    return f'<figure><img {source} alt="{escape(alt)}" width="{width}">{below}</figure>'


def section(heading: str, *parts: str) -> str:
    """A heading and what stands under it."""
    return f"<section><h2>{escape(heading)}</h2>{''.join(parts)}</section>"


def whole(title: str, lead: Iterable[str], parts: Iterable[str]) -> str:
    """The page: a title, the sentences that lead, the sections."""
    opening = "".join(paragraph(text) for text in lead)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n"
        f'<body><h1>{escape(title)}</h1><div class="lead">{opening}</div>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _cell(text: str) -> str:
    # words may be broken over lines, numbers with their errors may not
    return f"<td{_kind('' if '±' in text else 'text')}>{escape(text)}</td>"


def _kind(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""
