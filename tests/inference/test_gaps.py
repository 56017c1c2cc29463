r"""Gaps against closed forms: the family's part, the encoder's part, and their order between
families.
"""

import exact
import pytest
import torch
from torch import nn

import ppvae
from ppvae.stories import load as load_story


@pytest.mark.parametrize(("name", "has_gap"), [("mean_field", True), ("full_rank", False)])
def test_trained_linear_guides_have_the_gaps_that_algebra_gives(name: str, has_gap: bool) -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 1000)
    guide = ppvae.guides.build(name, story, rows, encoder=nn.Identity())
    story.requires_grad_(False)
    ppvae.fit(story, guide, rows, lr=0.03, epochs=80, progress=False)
    found = ppvae.gaps(story, guide, {"x": rows["x"][:100]})
    expected = exact.mean_field_gap(story) if has_gap else 0.0
    assert found.method == "exact"
    assert float(found.approximation_gap.value.mean()) == pytest.approx(expected, abs=0.02)
    assert float(found.amortization_gap.value.mean()) == pytest.approx(0.0, abs=0.02)


def test_gaps_add_up_row_by_row() -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 10)
    guide = ppvae.guides.build("mean_field", story, rows)
    found = ppvae.gaps(story, guide, rows)
    parts = found.approximation_gap.value + found.amortization_gap.value
    assert torch.allclose(parts, found.inference_gap.value)
    assert "approximation_gap" in str(found)


def test_local_optimum_does_not_depend_on_where_the_encoder_stands() -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 10)
    values = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        guide = ppvae.guides.build("full_rank", story, rows)
        values.append(ppvae.gaps(story, guide, rows).elbo_local)
    difference = values[0] - values[1]
    assert float(difference.value.abs().max()) < 0.02


@pytest.mark.parametrize("train_with", ["mean_field", "iaf"])
def test_a_larger_family_is_never_worse_after_local_optimisation(train_with: str) -> None:
    rows = ppvae.data.load("digits")
    torch.manual_seed(0)
    story = load_story("vae", rows.batch(), latent_dim=3, hidden=(50,))
    ppvae.fit(story, ppvae.guides.build(train_with, story, rows), rows, epochs=4, progress=False)
    story.requires_grad_(False)
    best = {}
    for name in ("mean_field", "full_rank", "iaf"):
        guide = ppvae.guides.build(name, story, rows)
        ppvae.fit(story, guide, rows, epochs=4, progress=False)
        best[name] = ppvae.gaps(story, guide, rows.head(20), method="iwae").elbo_local
    for name in ("full_rank", "iaf"):
        gain = (best[name] - best["mean_field"]).mean()
        assert float(gain.value) > -4 * float(gain.std_error)


def test_gaps_of_a_guide_written_by_hand() -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 10)
    found = ppvae.gaps(story, exact.ScaledPosterior(story, 2.0), rows)
    divergence = 3 / 2 * (4 - 1 - 2 * 0.6931471805599453)
    assert float(found.approximation_gap.value.abs().max()) < 0.02
    assert float(found.amortization_gap.value.mean()) == pytest.approx(divergence, abs=0.2)


def test_unknown_evidence_is_named() -> None:
    story = exact.linear_gaussian()
    with pytest.raises(ValueError, match="auto, best, exact"):
        ppvae.gaps(story, exact.ScaledPosterior(story), exact.rows_of(story, 2), method="magic")
