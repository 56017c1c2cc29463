"""Every objective trains what it should, in every kind of story, by `fit`; and says what it cannot
serve."""

import json
from copy import deepcopy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from stories import CASES, rows_of
from torch import nn

import ppvae
from ppvae import objectives
from ppvae.objectives import OBJECTIVES
from ppvae.stories import load as load_story
from ppvae.story import local_params, seeded_eval

PARTICLES = 3
STORIES = ("hierarchical", "deep_plates", "global_plate")


@pytest.fixture(scope="module")
def pairs():
    made = {}
    for case in STORIES:
        story = CASES[case].story()
        rows = rows_of(CASES[case], story)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made[case] = (story, ppvae.guides.build("mean_field", story, rows, hidden=(8,)), rows)
    return made


@pytest.mark.parametrize("case", STORIES)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.filterwarnings("ignore:no closed form")
def test_the_loss_is_finite_and_its_gradient_reaches_every_parameter(pairs, name, case):
    story, guide, rows = pairs[case]
    local_only = ("wake_sleep", "reweighted_wake_sleep", "monte_carlo_em")
    if case == "global_plate" and name in local_only:
        with pytest.raises(
            ValueError, match=rf"for {name}, got the global sites \['bias', 'gain'\]"
        ):
            objectives.build(name, story, guide, rows)
        return
    objective = objectives.build(name, story, guide, rows, num_particles=PARTICLES)
    with local_params(story, guide, objective), seeded_eval(0, story, guide):
        loss = objective(rows)
    assert loss.shape == () and bool(torch.isfinite(loss))
    parameters = dict(objective.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    unmoved = {
        key
        for key, gradient in zip(parameters, gradients, strict=True)
        if gradient is None or not bool(torch.isfinite(gradient).all()) or not bool(gradient.any())
    }
    unused = {"story.noise_unconstrained"} if case == "hierarchical" else set()
    assert unmoved == unused


@pytest.fixture(scope="module")
def digits():
    torch.manual_seed(0)
    rows = ppvae.data.load("digits").head(200)
    story = load_story("vae", rows.batch(), latent_dim=2, hidden=(16,))
    return story, ppvae.guides.build("mean_field", story, rows, hidden=(16,)), rows


@pytest.mark.parametrize("name", OBJECTIVES)
def test_fit_raises_the_elbo_with_every_objective(digits, name):
    story, guide, rows = deepcopy(digits)
    before = float(ppvae.elbo(story, guide, rows, num_particles=10).mean().value)
    history = ppvae.fit(
        story,
        guide,
        rows,
        objective=name,
        num_particles=2,
        epochs=2,
        batch_size=50,
        lr=0.01,
        progress=False,
    )
    after = float(ppvae.elbo(story, guide, rows, num_particles=10).mean().value)
    assert after > before + 5
    assert history.records[-1]["elbo"] == pytest.approx(
        after, abs=2.5
    )  # the plain one, whatever the loss


def test_the_reported_elbo_is_plain_under_beta(digits):
    story, guide, rows = deepcopy(digits)
    history = ppvae.fit(
        story, guide, rows, objective_options={"beta": 20.0}, epochs=2, lr=0.01, progress=False
    )
    record = history.records[-1]
    assert record["elbo"] != -record["loss"]
    plain = ppvae.elbo(story, guide, rows, num_particles=10).mean()
    assert record["elbo"] == pytest.approx(float(plain.value), abs=1.0)


def test_beta_presses_the_code(digits):
    bits = {}
    for beta in (0.1, 30.0):
        story, guide, rows = deepcopy(digits)
        ppvae.fit(
            story, guide, rows, objective_options={"beta": beta}, epochs=10, batch_size=25, lr=0.03,
            progress=False,
        )  # fmt: skip
        bits[beta] = float(ppvae.diagnostics.kl_by_site(story, guide, rows).total.mean().value)
    assert bits[30.0] < 0.3 < 1.0 < bits[0.1]


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop", "adagrad"])
def test_every_optimizer_trains_and_each_goes_its_own_way(digits, optimizer):
    story, guide, rows = deepcopy(digits)
    lr = {"sgd": 0.02, "adagrad": 0.03}.get(optimizer, 0.003)
    before = float(ppvae.elbo(story, guide, rows, num_particles=10).mean().value)
    ppvae.fit(
        story, guide, rows, optimizer=optimizer, lr=lr, epochs=4, batch_size=25, progress=False
    )
    assert float(ppvae.elbo(story, guide, rows, num_particles=10).mean().value) > before + 3


@pytest.mark.parametrize(
    ("objective", "optimizer"), [("score_function", "rmsprop"), ("monte_carlo_em", "adagrad")]
)
def test_a_resumed_run_remembers_the_baseline_and_the_optimizer(
    digits, tmp_path, objective, optimizer
):
    options = {"baseline": "neural"} if objective == "score_function" else {"num_moves": 1}
    training = {
        "objective": objective, "objective_options": options, "optimizer": optimizer, "lr": 0.003,
        "schedule": "constant", "progress": False,
    }  # fmt: skip
    story, guide, rows = deepcopy(digits)
    whole = ppvae.fit(story, guide, rows, epochs=3, **training)
    story, guide, _ = deepcopy(digits)
    folder = {"run_dir": tmp_path / "run"}
    ppvae.fit(story, guide, rows, epochs=1, **training, **folder)
    story, guide, _ = deepcopy(digits)
    resumed = ppvae.fit(story, guide, rows, epochs=3, resume=True, **training, **folder)
    assert resumed.column("loss") == whole.column("loss")
    config = json.loads((tmp_path / "run" / "config.json").read_text())["fit"]
    assert config["optimizer"] == optimizer and config["objective"] == objective
    assert options.items() <= config["objective_options"].items()
    for change in ({"optimizer": "sgd"}, {"objective": "trace_elbo", "objective_options": None}):
        with pytest.raises(
            ValueError, match=f"settings with which the run began, got {next(iter(change))}"
        ):
            ppvae.fit(story, guide, rows, epochs=4, resume=True, **{**training, **change}, **folder)


def test_fit_takes_an_objective_made_for_its_modules_and_no_other(digits):
    story, guide, rows = deepcopy(digits)
    made = objectives.build("renyi", story, guide, rows, alpha=0.2, num_particles=2)
    ppvae.fit(story, guide, rows, objective=made, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"made for this story, this guide and 100 rows"):
        ppvae.fit(story, guide, rows.head(100), objective=made, epochs=1, progress=False)
    with pytest.raises(ValueError, match="for other modules"):
        ppvae.fit(*deepcopy((story, guide)), rows, objective=made, epochs=1, progress=False)
    with pytest.raises(ValueError, match="no options beside an objective that is made"):
        ppvae.fit(story, guide, rows, objective=made, num_particles=5, progress=False)


# --- what cannot be served -----------------------------------------------------


class Coins(PyroModule):
    def forward(self, n):
        with pyro.plate("data", n):
            side = pyro.sample("side", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(side, 1.0))


class CoinGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("side", dist.Bernoulli(logits=self.logits))


@pytest.mark.parametrize("name", ["dreg", "stl", "iwae", "renyi", "free_bits"])
def test_a_site_without_a_path_is_named_and_the_way_out_too(name):
    with pytest.raises(
        ValueError, match=rf"{name}, got .* sites \['side'\]; use score_function or vimco"
    ):
        objectives.build(name, Coins(), CoinGuide(), torch.zeros(4))


@pytest.mark.parametrize("name", ["score_function", "vimco", "wake_sleep", "reweighted_wake_sleep"])
def test_a_site_without_a_path_is_learnt_by_those_that_need_none(name):
    x = torch.full((20,), 1.5)  # p(side = 1 | x) = sigmoid(1)
    story, guide = Coins(), CoinGuide()
    objective = objectives.build(name, story, guide, x, num_particles=8)
    optimiser = torch.optim.Adam(guide.parameters(), lr=0.1)
    with local_params(story, guide), seeded_eval(0, story, guide):
        for step in range(150):
            optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 150)
            optimiser.zero_grad()
            objective({"x": x}).backward()
            optimiser.step()
    # Wake-sleep's guide learns from dreams: one answer for all rows is the prior there, and
    # half-way with both.
    right = {"wake_sleep": 0.0, "reweighted_wake_sleep": 0.46}.get(name, 1.0)
    assert float(guide.logits.detach()) == pytest.approx(right, abs=0.25)


def test_a_guide_without_a_closed_form_is_refused_by_the_analytic_objective(pairs):
    story, guide, rows = pairs["hierarchical"]
    full = ppvae.guides.build("full_rank", story, rows, hidden=(8,))
    with pytest.raises(
        ValueError, match=r"closed form, got none at \['z1', 'z2'\]; use trace_elbo"
    ):
        objectives.build("mean_field_elbo", story, full, rows)
    story = CASES["inner_explicit"].story()
    rows = rows_of(CASES["inner_explicit"], story)
    guide = ppvae.guides.build("mean_field", story, rows, hidden=(8,))
    with pytest.warns(UserWarning, match=r"no closed form of the KL divergence at \['share'\]"):
        objectives.build("mean_field_elbo", story, guide, rows)


def test_particles_spread_over_components_are_refused_where_they_must_be_independent(pairs):
    story, _, rows = pairs["hierarchical"]
    guide = ppvae.guides.build("mixture", story, rows, hidden=(8,))
    for name in ("dreg", "vimco"):
        with pytest.raises(ValueError, match=rf"independently for {name}.*use iwae or stl"):
            objectives.build(name, story, guide, rows, num_particles=4)
    objectives.build("dreg", story, guide, rows, num_particles=1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magic", {}, "an objective among trace_elbo, mean_field_elbo, enum_elbo"),
        ("renyi", {"apha": 1}, r"options among alpha, beta, num_particles; got \['apha'\]"),
        ("renyi", {"alpha": float("inf")}, "finite alpha"),
        ("vimco", {}, "num_particles of at least 2 for vimco, got 1"),
        ("trace_elbo", {"num_particles": 0}, "num_particles of at least 1"),
        ("score_function", {"baseline": "magic"}, "a baseline among none, average, neural"),
        ("free_bits", {"floor": -1.0}, "floor of 0 nats or more"),
        ("trace_elbo", {"beta": -1.0}, "weights of 0 or more"),
        ("trace_elbo", {"beta": {"y": 1.0}}, r"latent sites among \['z1', 'z2'\], got \['y'\]"),
        ("dreg", {"beta": {"z1": 0.5}}, "one number as beta"),
        ("wake_sleep", {"beta": 0.5}, "beta = 1 for wake_sleep"),
        ("reweighted_wake_sleep", {"sleep_share": 2.0}, "sleep_share between 0 and 1"),
        ("monte_carlo_em", {"num_moves": 0}, "at least one move"),
    ],
)
def test_bad_options_are_named(pairs, name, options, message):
    with pytest.raises(ValueError, match=message):
        objectives.build(name, *pairs["hierarchical"], **options)


def test_sites_drawn_together_cannot_be_weighed_apart(pairs):
    story, _, rows = pairs["hierarchical"]
    guide = ppvae.guides.build("full_rank", story, rows, hidden=(8,))
    with pytest.raises(ValueError, match=r"each site by itself .* joint draws at \['_z2_z1'\]"):
        objectives.build("stl", story, guide, rows, beta={"z1": 0.5})


def test_warm_up_of_an_objective_without_a_kl_term_is_refused(digits):
    story, guide, rows = digits
    with pytest.raises(ValueError, match="kl_warmup=0 with wake_sleep, got 3"):
        ppvae.fit(story, guide, rows, objective="wake_sleep", kl_warmup=3, progress=False)


def test_an_adopted_model_cannot_dream():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            loc = pyro.param("loc", torch.zeros(1))
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    x = torch.zeros(4, 1)
    with pytest.raises(ValueError, match="a story that generates what it is shown"):
        objectives.build("wake_sleep", *ppvae.adopt(model, guide, example=x), x)
