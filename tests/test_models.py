r"""The gallery: what a story's docstring says is what its program does."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest
from torch.distributions import constraints

from ppvae.stories import example_rows, story_class, story_names
from ppvae.stories import load as load_story
from ppvae.story import check_story, seeded, simulate

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = ("Story", "Program", "Graph", "Sites", "Source")
PATHS = {path.stem: path for path in sorted((ROOT / "models").glob("*.py"))}
# What the Sites table calls a support, and the constraint that it means (one of a story's own by
# the name of its class).
SUPPORTS: dict[str, constraints.Constraint | str] = {
    "levels": "Levels",
    "real": constraints.real,
    "positive": constraints.positive,
    "{0, 1}": constraints.boolean,
    "(0, 1)": constraints.unit_interval,
    "[0, 1]": constraints.unit_interval,
    "simplex": constraints.simplex,
    "count": constraints.nonnegative_integer,
    "{0,...,K-1}": constraints.integer_interval(0, 1),
    "one-hot": constraints.one_hot,
}
# A row of the table that stands for a site at each step or layer, and their names.
REPEATED = {"z_t": re.compile(r"z_\d+"), "z_l": re.compile(r"z_\d+")}
every_story = pytest.mark.parametrize("name", PATHS)


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(PATHS[name].read_text())) or ""


def table(name: str) -> dict[str, dict[str, str]]:
    """The Sites table: site -> column -> cell."""
    text = docstring(name)
    lines = [line.strip() for line in text[text.index("\nSites") :].splitlines()]
    lines = [line for line in lines if line.startswith("|")]
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    header, rows = cells[0], [c for c in cells[1:] if set("".join(c)) - set("-")]
    assert header[:4] == ["name", "role", "shape", "support"] and header[4] == "unit"
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


@cache
def made(name: str):
    """The story for a few rows of the data that it is tried on."""
    rows = example_rows(name)[0].head(4)
    with seeded(0):
        story = load_story(name, rows.batch())
    batch = rows.batch()
    return story, check_story(story, batch), batch


def told_for(name: str, sites) -> dict[str, dict[str, str]]:
    """The Sites table, with a row for each step or layer."""
    told = table(name)
    for key, pattern in REPEATED.items():
        if key in told:
            row = told.pop(key)
            told |= {site: row for site in sites if pattern.fullmatch(site)}
    return told


def base_of(support: constraints.Constraint) -> constraints.Constraint:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def test_the_gallery_lists_every_file():
    assert story_names() == list(PATHS)


@every_story
def test_the_docstring_has_its_sections_in_order(name):
    text = docstring(name)
    places = [re.search(rf"^{section}$", text, re.MULTILINE) for section in SECTIONS]
    assert all(places), [s for s, p in zip(SECTIONS, places, strict=True) if not p]
    starts = [p.start() for p in places]
    assert starts == sorted(starts)


@every_story
def test_the_sites_table_agrees_with_the_traced_run(name):
    _, sites, _ = made(name)
    told = told_for(name, sites)
    assert set(told) == set(sites)
    for key, site in sites.items():
        row = told[key]
        role = row["role"].removeprefix("global ")
        assert role == site.role and row["role"].startswith("global") != site.is_local, key
        symbols = [s for s in row["shape"].strip("()").split(",") if s.strip()]
        assert len(symbols) == len(site.event_shape), f"{key}: shape {row['shape']}"
        assert row["support"] in SUPPORTS, f"{key}: name the support {row['support']} in this test"
        wanted = SUPPORTS[row["support"]]
        name_of = wanted if isinstance(wanted, str) else type(wanted).__name__
        assert type(base_of(site.support)).__name__ == name_of, key
        assert row["unit"], key


@every_story
def test_a_story_has_distributions_for_its_program_lines(name):
    text = docstring(name)
    program = text[text.index("\nProgram") : text.index("\nGraph")]
    drawn = set(re.findall(r"^\s*([A-Za-z_]\w*)(?:_\w)? ~ ", program, re.MULTILINE))
    assert drawn == set(table(name)), "a `~` line for each site, and no other"


@every_story
def test_a_story_is_sound_on_rows_of_its_own(name):
    story, sites, batch = made(name)
    covariates = {k: v for k, v in batch.items() if k not in sites}
    rows = simulate(story, 4, seed=0, **covariates)
    own = {k: rows[k] for k in sites.observed}
    assert set(check_story(story, {**own, **covariates})) == set(sites)


@every_story
def test_a_story_is_made_without_data_too_and_draws_the_same_sites(name):
    _, sites, batch = made(name)
    covariates = {k: v for k, v in batch.items() if k not in sites}
    drawn = simulate(story_class(name)(), 4, seed=0, **covariates)
    assert set(told_for(name, drawn)) == set(drawn)


@every_story
def test_a_file_keeps_its_length_and_says_nothing_of_inference(name):
    text = PATHS[name].read_text()
    assert 40 <= len(text.splitlines()) <= 200
    assert "guide" not in text.lower() and "matplotlib" not in text


@every_story
def test_a_closed_form_has_one_number_a_row(name):
    story, _, batch = made(name)
    for method in ("log_evidence", "posterior"):
        if hasattr(story, method):
            assert list(inspect.signature(getattr(story, method)).parameters) == ["batch"]
    if hasattr(story, "log_evidence"):
        assert story.log_evidence(batch).shape == (4,)
