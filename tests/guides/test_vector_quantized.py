r"""Vector quantisation: nearest codes, gradients straight through, a codebook that follows."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from built import seeded_guide
from pyro.nn import PyroModule
from stories import TwoSites
from torch import nn

import ppvae
from ppvae.problem import Problem


class Quantised(PyroModule):
    """Three codes of eight, each an entry of two numbers."""

    def __init__(self, learnt=False, num_codes=8, in_plate=False):
        super().__init__()
        self.in_plate = in_plate
        with torch.random.fork_rng():
            torch.manual_seed(0)
            book = torch.randn(num_codes, 2)
            self.decoder = nn.Linear(6, 10)
        if learnt:
            self.codebook = nn.Parameter(book)
        else:
            self.register_buffer("codebook", book)
        self.register_buffer("even", torch.zeros(3, num_codes))

    def forward(self, n):
        with pyro.plate("data", n):
            if self.in_plate:
                with pyro.plate("places", 3):
                    code = pyro.sample("code", dist.OneHotCategorical(logits=self.even[0]))
                code = code.transpose(-2, -3)
            else:
                code = pyro.sample("code", dist.OneHotCategorical(logits=self.even).to_event(1))
            loc = self.decoder((code @ self.codebook).flatten(-2))
            pyro.sample("x", dist.Normal(loc, 0.3).to_event(1))


def made(n=50, **options):
    story = Quantised(**options)
    x = ppvae.simulate(story, n, seed=0)["x"]
    return story, {"x": x}, seeded_guide("vector_quantized", story, x, seed=1)


@pytest.mark.parametrize("in_plate", [False, True])
def test_each_code_is_the_nearest_entry(in_plate):
    story, batch, guide = made(in_plate=in_plate)
    guide.eval()
    drawn = Problem.of(story, guide, batch).draw_all(2)
    said = guide.parameters_of(batch)["logits"].reshape(50, 3, 2)
    nearest = (said.unsqueeze(2) - story.codebook).square().sum(-1).argmin(-1)
    assert torch.equal(drawn.values["code"].argmax(-1), nearest.expand(2, 50, 3))
    assert float(drawn.local.abs().max()) == 0.0


def test_what_the_decoder_reads_moves_as_the_encoder_says():
    _, batch, guide = made(learnt=True)
    guide.train()
    code = {}

    class Keep(pyro.poutine.messenger.Messenger):
        def _pyro_post_sample(self, msg):
            code[msg["name"]] = msg["value"]

    with Keep():
        guide(batch)
    looked_up = code["code"] @ guide.entries.detach()
    weight = torch.randn_like(looked_up)
    parameters = [guide.to_parameters.bias]
    found = torch.autograd.grad((looked_up * weight).sum(), parameters)[0]
    said = guide.parameters_of(batch)["logits"].reshape(50, 3, 2)
    expected = torch.autograd.grad((said * weight).sum(), parameters)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("learnt", [False, True])
def test_the_loss_has_the_commitment_and_the_elbo_has_not(learnt):
    story, batch, guide = made(learnt=learnt)
    said = guide.parameters_of(batch)["logits"].reshape(50, 3, 2)
    isolated = (said.unsqueeze(2) - story.codebook).square().sum(-1).amin(-1).sum(-1)
    weight = 0.25 + (1.0 if learnt else 0.0)
    guide.eval()
    plain = Problem.of(story, guide, batch).score(1).log_weights[0]
    guide.train()
    trained = Problem.of(story, guide, batch).score(1).log_weights[0]
    if learnt:  # a codebook that follows has moved between guide and story
        torch.testing.assert_close(plain - trained, weight * isolated, rtol=1e-4, atol=1e-3)
    else:
        log_guide = Problem.of(story, guide, batch).score(1).log_guide[0]
        assert bool((log_guide > 0).all())
    guide.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            ppvae.elbo(story, guide, batch).value,
            Problem.of(story, guide, batch).score(1).log_joint[0],
        )


def test_a_codebook_in_a_buffer_follows_the_means_of_what_chose_it():
    story, batch, guide = made(n=4000)
    guide.decay = 0.0  # the last batch alone
    guide.train()
    before = story.codebook.clone()
    said = guide.parameters_of(batch)["logits"].detach().reshape(-1, 2)
    chosen = (said.unsqueeze(1) - before).square().sum(-1).argmin(-1)
    guide(batch)
    used = chosen.bincount(minlength=8) > 0.01 * len(said) / 8
    assert int(used.sum()) >= 2
    for k in used.nonzero().flatten().tolist():
        torch.testing.assert_close(
            story.codebook[k], said[chosen == k].mean(0), rtol=1e-4, atol=1e-5
        )


def test_unused_entries_start_again_from_the_data():
    story, batch, guide = made()
    with torch.no_grad():
        story.codebook[5] = 1e3
        guide.sums[5] = 1e3
    guide.decay = 0.0
    guide.train()
    guide(batch)
    said = guide.parameters_of(batch)["logits"].detach().reshape(-1, 2)
    assert float((said - story.codebook[5]).square().sum(-1).min()) < 1e-8


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("in_plate", [False, True])
def test_training_raises_the_elbo(learnt, in_plate):
    story, batch, guide = made(learnt=learnt, in_plate=in_plate, n=200)
    before = ppvae.elbo(story, guide, batch).value.mean()
    history = ppvae.fit(story, guide, batch, epochs=60, lr=0.01, progress=False)
    after = ppvae.elbo(story, guide, batch).value.mean()
    assert float(after) > float(before) + 5
    assert len(history.records) == 60


def test_saved_weights_bring_codebook_and_averages_back(tmp_path):
    story, batch, guide = made()
    ppvae.fit(story, guide, batch, epochs=2, progress=False)
    ppvae.save(tmp_path / "vq", story, guide)
    again, _, other = made()
    ppvae.load(tmp_path / "vq", again, other)
    assert torch.equal(again.codebook, story.codebook) and torch.equal(other.sums, guide.sums)
    guide.eval(), other.eval()
    first, second = (
        Problem.of(s, g, batch).score().log_joint for s, g in ((story, guide), (again, other))
    )
    assert torch.equal(first, second)


# Errors


class NoBook(Quantised):
    def __init__(self):
        super().__init__()
        del self.codebook
        self.book = None

    def forward(self, n):
        with pyro.plate("data", n):
            code = pyro.sample("code", dist.OneHotCategorical(logits=self.even).to_event(1))
            loc = code.sum((-1, -2)).unsqueeze(-1).expand(*code.shape[:-2], 10)
            pyro.sample("x", dist.Normal(loc, 0.3).to_event(1))


@pytest.mark.parametrize(
    ("story", "message"),
    [
        (NoBook(), r"site 'code'.*codebook of 8 entries as `codebook`"),
        (Quantised(num_codes=1), "at least as many codes as numbers"),
        (TwoSites(), r"one latent site of one-hot codes.*\['a', 'b'\]"),
    ],
)
def test_a_story_without_a_codebook_is_refused(story, message):
    data = torch.zeros(5, 3 if isinstance(story, TwoSites) else 10)
    with pytest.raises(ValueError, match=message):
        ppvae.guides.build("vector_quantized", story, data)


def test_q_star_of_a_certain_guide_is_refused():
    story, batch, guide = made()
    with pytest.raises(ValueError, match="certain of its codes"):
        ppvae.gaps(story, guide, batch)
