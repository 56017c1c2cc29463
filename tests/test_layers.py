r"""The direction of imports, read off the sources: no cycle, nothing upward, nothing hidden in a function."""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    {"story", "nets", "data", "estimate", "plots", "disk", "progress", "options", "chunks"}
    | {"lock", "ranks", "source"},
    {"weights", "predict"},
    {"guides"},
    {"objectives", "evidence", "diagnostics", "export"},
    {"runs", "gaps", "training", "gradients", "estimators"},
    {"fit"},
    {"league", "league_folder"},
    {"compare"},
    {"report"},
    {"cli", "gallery", "__main__"},
)
FLOOR = {part: number for number, parts in enumerate(FLOORS) for part in parts}
# Imports that a user may lack, or that cost seconds where most runs do not need them.
OPTIONAL = {
    "data": {"torchvision.datasets", "pandas", "pyarrow"},
    "guides": {"ppvae.inference.local_search"},  # guide.local(batch).optimize(story)
    "training": {"torch.utils.tensorboard"},
}
MAX_LINES = 300

SOURCES = sorted((ROOT / "ppvae").rglob("*.py"))
STORIES = sorted((ROOT / "models").glob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def imported(path: Path, tree: ast.AST) -> set[str]:
    """Modules that the statements under `tree` import, by their full names."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module_name(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([node.module] if node.module else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES) or {base}
    return found


def part_of(module: str) -> str | None:
    """`ppvae.guides.unamortized` stands in the part `guides`."""
    pieces = module.split(".")
    return pieces[1] if pieces[0] == "ppvae" and len(pieces) > 1 else None


def statements(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions_of(tree: ast.AST) -> list[ast.AST]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def graph() -> dict[str, set[str]]:
    """File -> files of the package that it imports when it is imported."""
    edges = {}
    for path in SOURCES[1:] if SOURCES[0].parent.name == "ppvae" else SOURCES:
        tree = statements(path)
        late = set().union(*(imported(path, f) for f in functions_of(tree)), set())
        edges[module_name(path)] = {
            m for m in imported(path, tree) if m in MODULES and m != "ppvae" and m not in late
        }
    return edges


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_import_goes_up(path):
    own = part_of(module_name(path))
    if own is None:
        pytest.skip("the package itself imports lazily")
    assert own in FLOOR, f"{own} has no floor: give it one"
    for module in imported(path, statements(path)):
        part = part_of(module)
        if part is not None and part != own:
            assert FLOOR[part] <= FLOOR[own], f"{module_name(path)} imports {module}"
            assert FLOOR[own] > 0, (
                f"the ground floor imports no sibling, but {path} imports {module}"
            )


def test_runs_need_the_ground_floor_alone():
    for module in imported(
        ROOT / "ppvae/storage/run_folder.py", statements(ROOT / "ppvae/storage/run_folder.py")
    ):
        assert part_of(module) is None or FLOOR[part_of(module)] == 0, module


def test_no_file_imports_itself_in_a_circle():
    try:
        list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_function_hides_an_import(path):
    part = part_of(module_name(path))
    if part == "cli":
        return  # the command line must answer at once
    hidden = set().union(*(imported(path, f) for f in functions_of(statements(path))), set())
    assert hidden <= OPTIONAL.get(part or "", set())


def test_importing_the_package_imports_none_of_its_parts():
    tree = statements(ROOT / "ppvae/__init__.py")
    eager = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = set().union(*(imported(ROOT / "ppvae/__init__.py", n) for n in eager), set())
    assert names <= set(sys.stdlib_module_names) | {"collections.abc"}


def test_zuko_is_imported_in_one_file():
    who = [p.name for p in SOURCES if any(m.startswith("zuko") for m in imported(p, statements(p)))]
    assert who == ["flows.py"]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_the_package_never_imports_the_gallery(path):
    roots = {m.split(".")[0] for m in imported(path, statements(path))}
    assert not roots & {"models", "tests", "examples"}


@pytest.mark.parametrize("path", STORIES, ids=lambda p: p.stem)
def test_a_story_imports_only_torch_pyro_and_nets(path):
    for module in imported(path, statements(path)):
        root = module.split(".")[0]
        ours = module == "ppvae.nets"
        assert ours or root in {"torch", "pyro"} or root in sys.stdlib_module_names, module


def test_no_file_is_longer_than_a_reader_can_hold():
    folders = ("ppvae", "models", "examples", "tests", "benchmarks")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in paths}
    assert not {name: lines for name, lines in long.items() if lines > MAX_LINES}


def test_the_readme_names_every_room_and_about_how_long_it_is():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("<!-- files -->")[2].partition("<!-- /files -->")[0]
    named: set[str] = set()
    for names, _, lines in (r.strip("|").split(" | ") for r in table.splitlines() if "`" in r):
        rooms = [ROOT / "ppvae" / name for name in re.findall(r"`([^`]+)`", names)]
        if names.startswith(" in"):
            continue
        files = [f for room in rooms for f in ([room] if room.is_file() else room.rglob("*.py"))]
        found = sum(len(f.read_text(encoding="utf-8").splitlines()) for f in files)
        assert abs(found - int(lines.replace(",", ""))) <= 0.1 * found, names
        named |= {room.name for room in rooms}
    there = {p.name for p in (ROOT / "ppvae").iterdir() if not p.name.startswith("__")}
    assert named == there
