r"""What changed between a run and its resume is refused, or taken and said."""

import warnings

import pytest
import torch
from coins import Coins, train
from torch import nn

import ppvae
from ppvae.stories import story_class

STORY = """
from torch import nn
class Changing(nn.Linear):
    def forward(self, x):
        return {}
"""


def test_a_changed_source_is_told_and_a_changed_comment_is_not(tmp_path) -> None:
    def made(name: str, body: str) -> nn.Module:
        (tmp_path / f"{name}.py").write_text(STORY.format(body))
        return story_class(str(tmp_path / f"{name}.py"))(2, 2)

    ppvae.save(tmp_path, made("one", "x"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppvae.load(tmp_path, made("two", "x  # the same"))
    with pytest.warns(UserWarning, match="source of Changing has changed since"):
        ppvae.load(tmp_path, made("three", "-x"))


def test_rows_that_changed_since_are_refused(tmp_path):
    """Same name, same number, other values."""
    story, x = Coins(), torch.rand(40, 3).round()
    guide = ppvae.guides.build("mean_field", story, x, hidden=(8,))
    options = {"run_dir": tmp_path / "run", "progress": False}
    ppvae.fit(story, guide, x, epochs=1, **options)
    x[7] = 1 - x[7]
    with pytest.raises(ValueError, match="contents of the rows '[0-9a-f]{12}' -> '[0-9a-f]{12}'"):
        ppvae.fit(story, guide, x, epochs=2, resume=True, **options)


def test_other_epochs_are_taken_and_said(tmp_path):
    train(tmp_path / "run")
    with pytest.warns(
        UserWarning, match=r"epochs 3 -> 5: the learning rate goes on by .* 'constant_then_linear'"
    ):
        _, records = train(tmp_path / "run", resume=True, epochs=5)
    assert len(records) == 5
    with pytest.raises(ValueError, match="at least the 5 epochs that the run has done"):
        train(tmp_path / "run", resume=True, epochs=4)


def test_weights_can_be_read_by_others(tmp_path):
    train(tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints").rglob("*.safetensors"):
        assert file.stat().st_mode & 0o044 == 0o044
