r"""Every story of the gallery trains, and is compared, on the data that it is tried on; and data as
asked for in a line."""

import json
from pathlib import Path

import pytest
import torch

import ppvae
from ppvae.cli import main
from ppvae.data import Request, load_request, parse_request
from ppvae.guides import FAMILIES, suggest
from ppvae.stories import example_of, example_rows, story_names
from ppvae.stories import load as load_story
from ppvae.story import seeded

pytestmark = pytest.mark.usefixtures("in_a_new_folder")

TINY = ["--epochs", "1", "--device", "cpu", "--no-progress"]
every_story = pytest.mark.parametrize("name", story_names())


def few_rows(name):
    """A story's example, with 40 rows to train on."""
    return example_of(name).replace("labels=100", "labels=10") + ":rows=40"


@pytest.mark.slow
@every_story
def test_a_story_trains_on_its_example_with_a_guide_that_suits_it(name, capsys):
    data = ["--data", few_rows(name)]
    assert main(["fit", name, *data, *TINY, "--run-dir", "run"]) == 0
    out, err = capsys.readouterr()
    assert "ELBO" in out and "nan" not in out and ": it suits the story" in err


@pytest.mark.slow
@every_story
def test_guides_are_compared_on_a_story_and_its_example(name, capsys, monkeypatch, short_search):
    monkeypatch.setattr(ppvae, "report", lambda *_, **__: "none")  # has tests of its own
    data = ["--data", few_rows(name), "--method", "iwae"]
    small = ["--rows", "2", "--evidence.num-particles", "30", "--run-dir", "run"]
    assert main(["compare", name, *data, *TINY, *small]) == 0
    printed = capsys.readouterr().out.split()
    assert "inference" in printed and "gap" in printed


@pytest.mark.parametrize("name", ["vae", "funnel", "mixture_vae", "vq_vae", "categorical_vae"])
def test_every_suggested_family_takes_the_story(name):
    train = example_rows(name, few_rows(name))[0]
    with seeded(0):
        story = load_story(name, train.batch())
    for with_local in (False, True):
        families = suggest(story, train, with_local=with_local)
        assert families and set(families) <= set(FAMILIES)
        for family in families:
            guide = ppvae.guides.build(family, story, train, hidden=(8,))
            assert bool(ppvae.elbo(story, guide, train.head(4)).value.isfinite().all())
            if with_local:
                assert guide.local(train.head(4).batch()).is_unamortized


def test_the_guide_of_a_story_with_nothing_to_learn_learns_from_its_fresh_rows(capsys):
    small = ["plucked_string", "--set", "num_frames=1", *TINY]
    for options, objective in ([], "wake_sleep"), (["--objective", "trace_elbo"], "trace_elbo"):
        assert main(["fit", *small, *options, "--run-dir", objective]) == 0
        told = json.loads(Path(objective, "config.json").read_text())["fit"]["objective"]
        assert told == objective
        assert ("learns from fresh rows" in capsys.readouterr().err) == (not options)
    assert main(["fit", "two_moons", *TINY, "--run-dir", "learned"]) == 0
    assert (
        json.loads(Path("learned", "config.json").read_text())["fit"]["objective"] == "trace_elbo"
    )


def test_a_line_says_which_rows_and_what_is_hidden_of_them():
    assert parse_request("digits") == Request("digits")
    asked = parse_request("image_folder:a:b:labels=100:missing=0.5:images=true")
    assert asked == Request("image_folder:a:b", labels=100, missing=0.5, images=True)
    assert parse_request("mnist:rows=9:labels=all") == Request("mnist", rows=9, labels="all")
    for wrong in ("digits:rows=x", "digits:missing=1.0", "digits:labels=0", "digits:images=1"):
        with pytest.raises(ValueError, match="expected"):
            parse_request(wrong)


def test_labels_are_few_and_even_over_the_classes_and_none_in_test():
    request = parse_request("digits:labels=25")
    known = load_request(request, "train").tensors["y"]
    counts = known[~known.isnan()].long().bincount()
    assert counts.tolist() == [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    true = load_request(parse_request("digits:labels=all"), "train").tensors["y"]
    assert torch.equal(known[~known.isnan()], true[~known.isnan()])
    assert bool(load_request(request, "test").tensors["y"].isnan().all())


def test_the_asked_share_of_entries_is_missing_and_the_same_each_time():
    request = parse_request("digits:binarize=none:missing=0.5")
    x = load_request(request, "train").tensors["x"]
    share, error = float(x.isnan().float().mean()), 0.5 / x.numel() ** 0.5
    assert abs(share - 0.5) < 4 * error
    again = load_request(request, "train").tensors["x"]
    assert torch.equal(x.isnan(), again.isnan())
    whole = load_request(parse_request("digits:binarize=none"), "train").tensors["x"]
    assert torch.equal(x[~x.isnan()], whole[~x.isnan()])


def test_images_keep_their_shape_when_asked():
    assert load_request(parse_request("digits:images=true"), "test").tensors["x"].shape[1:] == (
        1,
        8,
        8,
    )


def test_a_story_with_covariates_cannot_be_tried_on_rows_of_its_own(capsys):
    assert main(["check", "conditional_vae", "--data", "simulated"]) == 2
    assert "name data for it with --data" in capsys.readouterr().err


def test_simulated_rows_are_the_same_each_time_and_cut_in_three():
    first, again = example_rows("funnel"), example_rows("funnel")
    assert [len(part) for part in first] == [800, 100, 100]
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.tensors["x"], two.tensors["x"])


@every_story
def test_a_new_story_keeps_the_contract_as_it_is(name, capsys):
    assert main(["new", "mystory", "--from", name]) == 0
    assert main(["check", "mystory.py"]) == 0
    assert "mystory.py keeps the contract" in capsys.readouterr().out


@pytest.mark.slow
def test_a_new_story_is_trained_as_it_is():
    assert main(["new", "mystory", "--from", "funnel"]) == 0
    assert main(["fit", "mystory.py", *TINY, "--run-dir", "run"]) == 0
