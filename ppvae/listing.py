r"""What there is to choose from, read from the source: a list must not wait for torch."""

__all__ = ["KINDS", "gallery_folder", "listed", "story_names"]

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# What can be listed -> the folder of the package, and the dicts in it that name each.
TABLES = {
    "guides": ("guides", ("PLAIN", "FAMILIES")),
    "objectives": ("objectives", ("OBJECTIVES",)),
    "data": ("data", ("SOURCES",)),
}
KINDS = ("stories", *TABLES)
FILES = "PATH"
FILES_LINE = "a file of numbers: .npy .npz .csv .parquet .pt"


def gallery_folder() -> Path:
    """The folder of the gallery's files: inside an installed package, beside it in a checkout."""
    inside = PACKAGE / "models"
    return inside if inside.is_dir() else PACKAGE.parent / "models"


def story_names() -> list[str]:
    """Names of the gallery's stories."""
    return sorted(p.stem for p in gallery_folder().glob("*.py") if not p.stem.startswith("_"))


def listed(kind: str) -> dict[str, str]:
    """Name -> one line, of all stories, guides, data sets or objectives.

    Raises:
        ValueError: If `kind` is none of these.
    """
    if kind not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)} to list, got '{kind}'")
    if kind == "stories":
        files = {name: gallery_folder() / f"{name}.py" for name in story_names()}
        return {name: _first_line(ast.get_docstring(_parsed(f))) for name, f in files.items()}
    folder, tables = TABLES[kind]
    modules = [_parsed(file) for file in sorted((PACKAGE / folder).glob("*.py"))]
    rows = {n: row for table in tables for m in modules for n, row in _rows(m, table)}
    if kind == "data":
        return {name: _text(row) for name, row in rows.items()} | {FILES: FILES_LINE}
    classes = {n.name: n for m in modules for n in m.body if isinstance(n, ast.ClassDef)}
    return {name: _described(classes[ast.unparse(row)]) for name, row in rows.items()}


def _rows(module: ast.Module, table: str) -> Iterator[tuple[str, ast.expr]]:
    """Key and value of each entry of the dict of this name, if the module has it."""
    for node in module.body:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.target) != table:
            continue
        if isinstance(node.value, ast.Dict):
            for key, row in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant):
                    yield str(key.value), row


def _described(cls: ast.ClassDef) -> str:
    """The first line of a class's docstring, and what it `assumes` if it says so."""
    line = _first_line(ast.get_docstring(cls))
    said = {ast.unparse(n.targets[0]): n.value for n in cls.body if isinstance(n, ast.Assign)}
    return f"{line} (assumes {_text(said['assumes'])})" if "assumes" in said else line


def _text(row: ast.expr) -> str:
    """A text, or the text that a record begins with."""
    return str(ast.literal_eval(row.args[0] if isinstance(row, ast.Call) else row))


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _first_line(text: str | None) -> str:
    """First paragraph of a docstring as one line, up to its formula."""
    line = " ".join((text or "").strip().split("\n\n")[0].split())
    return line.split(":math:")[0].rstrip(" ,.")
