r"""The league: shared and own stories, one log evidence for one story, paired differences."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import exact
import pytest
import torch
from torch import nn

import ppvae
from ppvae.config import EvidenceConfig, TrainConfig
from ppvae.stories import load as load_story


@pytest.fixture(scope="module", params=["shared", "own"])
def league(request: pytest.FixtureRequest) -> ppvae.League:
    torch.manual_seed(0)
    rows = ppvae.data.load("digits").head(300)
    story = load_story("vae", rows.batch(), latent_dim=3)
    guides = {
        n: ppvae.guides.build(n, story, rows, hidden=(20,)) for n in ("mean_field", "full_rank")
    }
    before = deepcopy(story.state_dict())
    found = ppvae.compare(
        story, guides, rows, val=ppvae.data.load("digits", split="valid").head(50),
        test=ppvae.data.load("digits", split="test"), decoder=request.param, rows=12,
        train=TrainConfig(epochs=3, progress=False), evidence=EvidenceConfig(num_particles=200),
    )  # fmt: skip
    assert all(torch.equal(before[k], v) for k, v in story.state_dict().items())
    return found


def test_gaps_of_the_table_add_up(league: ppvae.League) -> None:
    for row in league.rows:
        parts = row.approximation_gap.value + row.amortization_gap.value
        assert float(parts) == pytest.approx(float(row.inference_gap.value), abs=1e-4)
        assert float(row.elbo.value) < float(row.log_evidence.value) + 0.1
        assert 0 <= row.khat_share <= 1
        assert row.seconds > 0


def test_one_shared_story_has_one_log_evidence(league: ppvae.League) -> None:
    values = {float(row.log_evidence.value) for row in league.rows}
    assert len(values) == (1 if league.decoder == "shared" else 2)
    stories = {id(story) for story in league.stories.values()}
    assert len(stories) == (1 if league.decoder == "shared" else 2)


def test_table_prints_and_becomes_a_frame(league: ppvae.League) -> None:
    text = str(league)
    assert "mean_field" in text and "approximation" in text and "±" in text
    frame = league.to_pandas()
    assert list(frame.index) == ["mean_field", "full_rank"]
    assert "inference_gap_std_error" in frame.columns


def test_differences_are_paired_over_rows(league: ppvae.League) -> None:
    [(name, elbo, gap)] = league.differences()
    assert name == "full_rank"
    first, second = league.gaps.values()
    assert float(elbo.value) == pytest.approx(
        float((second.elbo.value - first.elbo.value).mean()), abs=1e-5
    )
    assert float(elbo.std_error) < float(league.rows[0].elbo.std_error)
    assert float(gap.value) == pytest.approx(
        float((second.inference_gap.value - first.inference_gap.value).mean()), abs=1e-5
    )


def test_closed_form_is_used_where_the_story_has_one() -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 300)
    guides = {"full_rank": ppvae.guides.build("full_rank", story, rows, encoder=nn.Identity())}
    train = TrainConfig(epochs=20, lr=0.02, progress=False)
    league = ppvae.compare(story, guides, rows, rows=20, train=train)
    assert league.rows[0].evidence_method == "exact"
    assert abs(float(league.rows[0].approximation_gap.value)) < 0.02


def test_every_training_takes_the_options_of_fit(tmp_path: Path) -> None:
    story, rows = exact.linear_gaussian(), exact.rows_of(exact.linear_gaussian(), 20)
    guides = {"mean_field": ppvae.guides.build("mean_field", story, rows)}
    asked: dict[str, Any] = {
        "kl_warmup": 1,
        "schedule": "constant",
        "clip_norm": 0.5,
        "ema_decay": 0.9,
    }
    train = TrainConfig(epochs=2, batch_size=10, seed=3, progress=False, **asked)
    league = ppvae.compare(
        story, guides, rows, rows=2, train=train, evidence=EvidenceConfig(method="exact"),
        run_dir=tmp_path / "run",
    )  # fmt: skip
    assert asked.items() <= league.settings.items() and league.settings["lr"] == 1e-3
    assert league.settings["evidence.method"] == "exact" and "progress" not in league.settings
    shared, first = deepcopy((story, guides["mean_field"]))
    ppvae.fit(shared, first, rows, config=train)
    for one, other in zip(
        shared.parameters(), league.stories["mean_field"].parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_bad_options_are_named(tmp_path: Path) -> None:
    story = exact.linear_gaussian()
    rows = exact.rows_of(story, 10)
    guide = ppvae.guides.build("mean_field", story, rows)
    with pytest.raises(ValueError, match="at least one guide"):
        ppvae.compare(story, {}, rows)
    with pytest.raises(ValueError, match="decoder among shared, own"):
        ppvae.compare(story, {"a": guide}, rows, decoder="magic")
    with pytest.raises(ValueError, match="rows=0"):
        ppvae.compare(story, {"a": guide}, rows, rows=0)
    with pytest.raises(ValueError, match="val.* for patience=2"):
        ppvae.compare(
            story, {"a": guide}, rows, train=TrainConfig(patience=2), run_dir=tmp_path / "league"
        )
    assert not (tmp_path / "league").exists()
