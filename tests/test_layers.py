r"""The direction of imports, read off the sources: down the list of rooms, no cycle, nothing
hidden."""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each room imports only from the rooms before it, and from its own.
ORDER = (
    {"config", "estimate", "listing", "options", "progress", "result"},
    {"data"},
    {"story"},
    {"nets"},
    {"storage"},
    {"guides"},
    {"problem"},
    {"stories"},
    {"inference"},
    {"predict"},
    {"objectives"},
    {"training"},
    {"gaps", "league", "compare", "runs"},
    {"diagnostics"},
    {"export"},
    {"viz"},
    {"cli", "__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# Imports that a user may lack, or that cost seconds where most runs do not need them.
HEAVY = {"torchvision.datasets", "pandas", "pyarrow", "sklearn", "arviz", "matplotlib"}
HEAVY |= {
    "torch.utils.tensorboard",
    "torch.fx.experimental.proxy_tensor",
    "dask",
    "distributed",
    "scipy.stats",
    "xarray",
}
# Methods that call a higher room when they are called.
SHORTCUTS = {"__str__", "plot", "to_pandas", "_repr_html_", "optimize"}
DRAWING = {"matplotlib", "rich", "jinja2"}
MAX_LINES = 300

# What is still to be mended. An entry that no longer occurs fails the test: take it out.
UPWARD: set[tuple[str, str]] = set()  # (room, a higher room that it imports)
HIDDEN: set[tuple[str, str]] = set()  # (room, a module that one of its functions imports)
# Rooms beside viz that import matplotlib, rich or jinja2.
DRAWN: set[str] = set()
LONG: set[str] = set()  # files of more than MAX_LINES

SOURCES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "ppvae").rglob("*.py"))
    if path != ROOT / "ppvae/__init__.py"
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def room_of(module: str) -> str | None:
    """`ppvae.guides.unamortized` stands in the room `guides`."""
    root, *rest = module.split(".")
    return rest[0] if root == "ppvae" and rest else None


def imports(path: Path, tree: ast.AST, skip: frozenset[ast.AST] = frozenset()) -> set[str]:
    """Full names of the modules that the statements under `tree` import, without those of
    `skip`."""
    found: set[str] = set()
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if node in skip:
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_name(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES) or {base}
    return found


def for_types(tree: ast.AST) -> frozenset[ast.AST]:
    """Blocks that only a type checker runs."""
    blocks = (n for n in ast.walk(tree) if isinstance(n, ast.If))
    return frozenset(n for n in blocks if ast.unparse(n.test) == "TYPE_CHECKING")


def functions(tree: ast.AST) -> frozenset[ast.AST]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return frozenset(node for node in ast.walk(tree) if isinstance(node, kinds))


def shortcuts(tree: ast.AST) -> frozenset[ast.AST]:
    return frozenset(f for f in functions(tree) if getattr(f, "name", "") in SHORTCUTS)


def test_imports_point_down():
    found = set()
    for path, tree in SOURCES.items():
        room = room_of(module_name(path))
        assert room in LEVEL, f"{path} is in no room: put it into ORDER"
        for other in map(room_of, imports(path, tree, skip=shortcuts(tree))):
            if other is not None and other != room and LEVEL[other] > LEVEL[room]:
                found.add((room, other))
    assert found == UPWARD


def test_no_file_imports_itself_in_a_circle():
    graph = {
        module_name(path): (imports(path, tree, skip=functions(tree) | for_types(tree)) & MODULES)
        - {"ppvae"}
        for path, tree in SOURCES.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


def test_no_function_hides_an_import():
    found = set()
    for path, tree in SOURCES.items():
        room = room_of(module_name(path))
        if room == "cli":
            continue  # the command line must answer at once
        for function in functions(tree):
            for module in imports(path, function, skip=shortcuts(tree)):
                heavy = any(module == name or module.startswith(f"{name}.") for name in HEAVY)
                if not heavy:
                    found.add((room, module))
    assert found == HIDDEN


def test_packages_are_imported_where_they_belong():
    roots = {
        path: {module.split(".")[0] for module in imports(path, tree)}
        for path, tree in SOURCES.items()
    }
    for path, names in roots.items():
        assert not names & {"models", "tests", "examples"}, path
    assert [path.name for path, names in roots.items() if "zuko" in names] == ["autoregressive.py"]
    drawing = {room_of(module_name(path)) for path, names in roots.items() if names & DRAWING}
    assert drawing - {"viz"} == DRAWN
    for path in (ROOT / "models").glob("*.py"):
        for module in imports(path, ast.parse(path.read_text(encoding="utf-8"))):
            known = {"torch", "pyro"} | set(sys.stdlib_module_names)
            assert module == "ppvae.nets" or module.split(".")[0] in known, f"{path}: {module}"


def test_importing_the_package_imports_none_of_its_rooms():
    path = ROOT / "ppvae/__init__.py"
    eager = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    roots = {m.split(".")[0] for node in eager for m in imports(path, node)}
    assert roots <= set(sys.stdlib_module_names)


def test_no_file_is_longer_than_a_reader_can_hold():
    folders = ("ppvae", "models", "examples", "tests", "benchmarks")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {str(p.relative_to(ROOT)) for p in paths if p.read_text("utf-8").count("\n") > MAX_LINES}
    assert long == LONG


def test_the_readme_names_every_room():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- files -->")[2].partition("<!-- /files -->")[0]
    if not table:
        pytest.skip("the README has no table of rooms")
    rows = [line.strip("|").split("|")[0] for line in table.splitlines() if line.startswith("| `")]
    named = {name.strip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    there = {p.name for p in (ROOT / "ppvae").iterdir() if not p.name.startswith("__")}
    assert named == there
