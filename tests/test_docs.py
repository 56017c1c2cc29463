r"""The page on writing a story: its story runs, is checked, trained and used as the page says."""

import re
from pathlib import Path

import pytest

from ppvae.cli import main

pytestmark = pytest.mark.usefixtures("in_a_new_folder")

PAGE = Path(__file__).parent.parent / "docs" / "write_your_own_story.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_story_of_the_page_is_checked_trained_and_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story, use, *_ = blocks("python")
    Path("birds.py").write_text(story)
    check, fit, *_ = (line.split()[1:] for line in blocks("sh"))
    assert main(check) == 0
    assert "birds.py keeps the contract" in capsys.readouterr().out
    fit[fit.index("--epochs") + 1] = "2"
    assert main([*fit, "--device", "cpu"]) == 0
    exec(use, {})
    assert "torch.Size([100, 2]) torch.Size([5, 8])" in capsys.readouterr().out


def test_the_story_with_covariates_and_holes_is_trained_and_fills_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    *_, story, rows, use = blocks("python")
    Path("flocks.py").write_text(story)
    exec(rows, {})
    check, fit = (line.split()[1:] for line in blocks("sh")[-1].splitlines())
    assert main(check) == 0
    assert "covariate" in capsys.readouterr().out
    fit[fit.index("--epochs") + 1] = "2"
    assert main([*fit, "--device", "cpu"]) == 0
    exec(use, {})
    assert "torch.Size([200, 60, 8]) True torch.Size([3, 8])" in capsys.readouterr().out


def test_a_forgotten_to_event_is_told_in_the_words_of_the_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = blocks("python")[0].replace("dist.Poisson(rate).to_event(1)", "dist.Poisson(rate)")
    Path("birds.py").write_text(wrong)
    assert main(["check", "birds.py"]) == 2
    assert capsys.readouterr().err.strip() in PAGE.read_text(encoding="utf-8")
