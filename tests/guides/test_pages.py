r"""The pages on guides: the recipe's family works as the page gives it, and no family is left
out."""

import re
from pathlib import Path

import pytest
import torch
from stories import CASES, rows_of

import ppvae
from ppvae.guides import FAMILIES
from ppvae.problem import Problem

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "docs" / "adding_a_family.md"


def test_the_family_of_the_recipe_is_trained_and_searched():
    code = re.findall(r"```python\n(.*?)```", RECIPE.read_text(encoding="utf-8"), re.DOTALL)[0]
    names = {}
    exec(code, names)
    story = CASES["two_sites"].story()
    batch = rows_of(CASES["two_sites"], story)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = names["Laplace"](story, batch, hidden=(16,), denoising=0.1)
    before = ppvae.elbo(story, guide, batch).mean()
    ppvae.fit(story, guide, batch, epochs=20, lr=0.01, progress=False)
    assert float(ppvae.elbo(story, guide, batch).mean().value) > float(before.value) + 1
    local = guide.local(batch)
    assert float(local.optimize(story, max_steps=80).gain.mean()) > 0
    assert Problem.of(story, local, batch).score(3).log_weights.shape == (3, 12)


@pytest.mark.parametrize("page", ["README.md", "docs/choosing_a_guide.md"])
def test_every_family_stands_on_the_page(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not [name for name in FAMILIES if f"`{name}`" not in text]


@pytest.mark.parametrize("page", ["docs/choosing_a_guide.md", "docs/adding_a_family.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / "docs" / target).exists(), target
