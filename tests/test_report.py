r"""The report says what the numbers say, needs nothing but itself, and escapes everything."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module

import pytest
import torch

from models.vae import VAE
from ppvae.compare import League
from ppvae.estimate import Estimate
from ppvae.gaps import Gaps
from ppvae.guides import MeanField
from ppvae.inference import Sandwich
from ppvae.result import Result
from ppvae.training.fit import History
from ppvae.viz.report import report
from ppvae.viz.summary import cautions, certificates, headline, loses_most_to, nats
from ppvae.viz.tables import to_text

NUM_ROWS = 60
NUM_EPOCHS = 12


def estimate(mean, spread=0.2, error=0.02, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(NUM_ROWS, generator=generator)
    noise = noise - noise.mean()
    return Estimate(mean + spread * noise, torch.full((NUM_ROWS,), error))


def made_gaps(approximation, amortization, *, converged=True, method="ais", khat=0.3):
    evidence = estimate(-20.0, spread=3.0)
    local = Estimate(evidence.value - estimate(approximation, seed=1).value, evidence.std_error)
    return Gaps(
        log_evidence=evidence,
        elbo_local=local,
        elbo=Estimate(local.value - estimate(amortization, seed=2).value, local.std_error),
        method=method,
        khat=khat + 0.2 * torch.randn(NUM_ROWS, generator=torch.Generator().manual_seed(3)),
        local_steps=100,
        local_converged=converged,
    )


def made_history(level):
    records = [
        {"epoch": e, "loss": 9 / e - level, "elbo": level - 9 / e, "val_elbo": level - 10 / e}
        for e in range(1, NUM_EPOCHS + 1)
    ]
    return History(records, seconds=1.5, best_epoch=NUM_EPOCHS)


def made_league(decoder="shared", num_pixels=64, **gaps):
    torch.manual_seed(0)
    x = torch.rand(20, num_pixels).round()
    story = VAE(num_pixels, latent_dim=3, hidden=(20,))
    found = gaps or {
        "mean_field": made_gaps(2.0, 0.4, khat=0.6),
        "full_rank": made_gaps(0.6, 0.9),
        "iaf": made_gaps(0.3, 0.3),
    }
    guide = MeanField(story, x, hidden=(20,))
    league = League(
        gaps=found,
        histories={name: made_history(-21.0 - i) for i, name in enumerate(found)},
        stories=dict.fromkeys(found, story),
        guides=dict.fromkeys(found, guide),
        decoder=decoder,
        num_particles=1000,
        settings={"seed": 0, "data": "digits", "epochs": NUM_EPOCHS},
    )
    return league, x


class Reader(HTMLParser):
    """Collects tags, sources and text, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "link", "img", "source", "br"})

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text, self.sources = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "srcset", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append(data.strip())


def written(tmp_path, league, x, **options):
    path = report(league, x, path=tmp_path / "out" / "report.html", title="A & B", **options)
    return path.read_text(encoding="utf-8")


def test_the_page_holds_everything_it_shows(tmp_path):
    page = written(tmp_path, *made_league(), command="ppvae compare vae")
    reader = Reader(page)
    assert "script" not in reader.tags
    assert all(source.startswith("data:") for source in reader.sources)
    assert not re.search(r"https?://|url\(|@import", page)
    assert reader.tags.count("img") == reader.tags.count("source") == 5  # wide and narrow
    names = {p.stem for p in (tmp_path / "out" / "figures").iterdir()}
    assert names == {"gaps", "training", "khat", "samples", "reconstructions"}


def test_the_table_holds_every_guide_with_standard_errors(tmp_path):
    league, x = made_league()
    text = "|".join(Reader(written(tmp_path, league, x)).text)
    for row in league.rows:
        assert nats(row.inference_gap) in text and nats(row.elbo) in text
    assert "nats per row" in text and "±" in text
    for name, elbo, gap in league.differences():
        assert f"{name}|{nats(elbo)}|{nats(gap)}" in text


def test_names_and_commands_are_escaped(tmp_path):
    name = "<script>alert('&')</script>"
    league, x = made_league(**{name: made_gaps(1.0, 0.1)})
    page = written(tmp_path, league, x, command="ppvae --set 'a<b'")
    reader = Reader(page)
    assert "script" not in reader.tags
    assert name in "".join(reader.text) and "ppvae --set 'a<b'" in "".join(reader.text)


@pytest.mark.parametrize(
    ("num_pixels", "scale", "reason"),
    [(10, 1, r"shape \(10,\) are no pictures"), (64, 3, r"not all in \[0, 1\]")],
)
def test_rows_that_are_no_pictures_are_skipped_with_a_sentence(tmp_path, num_pixels, scale, reason):
    league, x = made_league(num_pixels=num_pixels)
    page = written(tmp_path, league, scale * x)
    assert Reader(page).tags.count("img") == 3
    assert re.search(f"Not drawn: .*{reason}", page) and page.count("Not drawn") == 1


def test_settings_name_the_modules_and_all_that_is_nested(tmp_path):
    league, x = made_league()
    nested = {"train": {"epochs": 12, "objective_options": {"beta": 4.0}, "clip_norm": None}}
    text = "|".join(Reader(written(tmp_path, replace(league, settings=nested), x)).text)
    num_parameters = sum(p.numel() for p in next(iter(league.stories.values())).parameters())
    assert f"story|VAE, {num_parameters:,} parameters" in text
    assert re.search(r"guide iaf\|MeanField, [\d,]+ parameters; .*up to 100 steps", text)
    assert "train: epochs|12|train: objective options: beta|4.0|train: clip norm|none" in text


def test_results_show_in_a_notebook_and_as_plain_text():
    league, _ = made_league(**{"<i>": made_gaps(1.0, 0.1)})
    page = Reader(league._repr_html_())
    assert page.tags.count("tr") == 2 and "<i>" in page.text and "i" not in page.tags
    found = league.gaps["<i>"]
    assert "approximation_gap" in str(found) and "\x1b" not in str(found) + str(league)
    frame = found.to_pandas()
    assert len(frame) == NUM_ROWS and "inference_gap_std_error" in frame
    assert found.plot().axes[0].get_xlabel() == "inference gap (nats)"
    history = made_history(-20.0)
    assert "weights of epoch 12" in str(history) and "-20.75" in str(history)
    assert list(history.plot().axes[0].lines[0].get_ydata()) == history.column("elbo")
    assert history.to_pandas().loc[12, "val_elbo"] == history.records[-1]["val_elbo"]
    with pytest.raises(TypeError, match="a result that has a table, got Result"):
        str(Result())
    with pytest.raises(TypeError, match="a result that has a figure, got Result"):
        Result().plot()


def test_stories_of_their_own_show_their_own_samples():
    page = import_module("ppvae.viz.report")
    league, x = made_league(decoder="own")
    for draw in (page._samples, page._reconstructions):
        assert list(draw(league, {"x": x})) == ["data", "mean_field", "full_rank", "iaf"]


def test_the_headline_names_the_guide_that_loses_least():
    first, why = headline(made_league()[0])
    assert first.startswith("iaf loses least: 0.60 ± ")
    assert "full_rank loses 1.50" in first and "paired over the rows" in first
    assert why.startswith("iaf loses to its family (0.30") and why.endswith("alike.")


def test_guides_that_cannot_be_told_apart_are_not_ranked():
    league, _ = made_league(a=made_gaps(1.0, 0.1), b=made_gaps(1.0, 0.1))
    league = replace(league, gaps={**league.gaps, "b": made_gaps(1.001, 0.1)})
    assert "cannot be told apart" in headline(league)[0]


def test_a_better_story_is_told_from_a_better_guide():
    better = made_gaps(2.0, 0.1)
    better = replace(
        better,
        **{k: Estimate(getattr(better, k).value + 5, getattr(better, k).std_error)
           for k in ("log_evidence", "elbo_local", "elbo")},
    )  # fmt: skip
    league, _ = made_league("own", good_guide=made_gaps(0.5, 0.1), good_story=better)
    assert headline(league)[0].startswith("good_guide loses least")
    assert headline(league)[1].startswith("good_story has the higher ELBO, by 3.50")


@pytest.mark.parametrize(
    ("approximation", "amortization", "expected"),
    [(2.0, 0.1, "family"), (0.1, 2.0, "encoder"), (1.0, 1.0, "both"), (0.0, 0.0, "neither")],
)
def test_the_fault_lies_where_the_larger_gap_is(approximation, amortization, expected):
    league, _ = made_league(one=made_gaps(approximation, amortization))
    assert loses_most_to(league.rows[0]) == expected
    assert len(headline(league)) == 2


def test_cautions_tell_what_is_not_to_be_trusted():
    league, _ = made_league(
        one=made_gaps(1.0, -0.5, converged=False, khat=0.9), two=made_gaps(1.0, 0.5, khat=-1.0)
    )
    text = " ".join(cautions(league))
    assert "log p̂(x) is a lower bound (ais)" in text
    assert re.search(r"k-hat is above 0\.67 on a share of the rows \(one \d\d%\)", text)
    assert "one: the search for q* stopped" in text
    assert "one: the amortization gap came out below zero" in text
    exact, _ = made_league(one=made_gaps(1.0, 0.5, method="exact"))
    assert cautions(exact)[0].startswith("log p(x) is exact")
    fine, _ = made_league(one=made_gaps(1.0, 0.5, khat=-1.0))
    assert "k-hat is below 0.67 on all rows. k-hat sees" in " ".join(cautions(fine))


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (0.01, r"^annealing certified to 0\.01\d* ± \S+ nats \(BDMC, 60 rows\)$"),
        (4.0, r"^annealing not converged: bounds on log p\(x\) lie 4\.0\d* ± .* too small by as"),
    ],
)
def test_a_certificate_says_whether_annealing_has_converged(width, text):
    lower = estimate(-20.0, spread=3.0)
    upper = Estimate(lower.value + width, lower.std_error)
    found = replace(made_gaps(1.0, 0.5), certificate=Sandwich(lower, upper))
    league, _ = made_league(one=found)
    assert re.search(text, certificates(league)[0])
    assert "real ones can be harder" in " ".join(cautions(league))


@pytest.mark.parametrize("width", [80, 150])
def test_a_table_cuts_no_number_however_narrow_the_terminal(width):
    league, _ = made_league()
    shown = to_text(league, width)
    assert "…" not in shown and all(len(line) <= width for line in shown.splitlines())
    for row in league.rows:
        assert row.name in shown and nats(row.elbo) in shown
        assert nats(row.approximation_gap) in shown


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-1.234, 0.05, "−1.23 ± 0.05"),
        (0.1234, 0.004, "0.123 ± 0.004"),
        (-0.001, 0.02, "0.00 ± 0.02"),
        (2.0, 0.0, "2.00 ± 0.00"),
        (1.0, 1e-7, "1.0000 ± 0.0000"),
    ],
)
def test_numbers_have_the_decimals_that_their_error_needs(value, error, text):
    assert nats(Estimate(torch.tensor(value), torch.tensor(error))) == text
