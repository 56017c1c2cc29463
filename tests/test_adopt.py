r"""Ordinary Pyro pairs, in the form of Pyro's own tutorials, in every function of the library."""

import warnings
from copy import deepcopy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import constraints

import ppvae
from ppvae.problem import Problem
from ppvae.story import adopt, check_story, log_joint, simulate, trace_sites

SIDE = 4


pytestmark = pytest.mark.usefixtures("empty_store")


class Encoder(nn.Module):
    def __init__(self, z_dim, hidden_dim, pixels):
        super().__init__()
        self.pixels = pixels
        self.fc1 = nn.Linear(pixels, hidden_dim)
        self.fc21 = nn.Linear(hidden_dim, z_dim)
        self.fc22 = nn.Linear(hidden_dim, z_dim)
        self.softplus = nn.Softplus()

    def forward(self, x):
        x = x.reshape(-1, self.pixels)
        hidden = self.softplus(self.fc1(x))
        return self.fc21(hidden), torch.exp(self.fc22(hidden))


class Decoder(nn.Module):
    def __init__(self, z_dim, hidden_dim, pixels):
        super().__init__()
        self.fc1 = nn.Linear(z_dim, hidden_dim)
        self.fc21 = nn.Linear(hidden_dim, pixels)
        self.softplus = nn.Softplus()
        self.sigmoid = nn.Sigmoid()

    def forward(self, z):
        return self.sigmoid(self.fc21(self.softplus(self.fc1(z))))


class ConvDecoder(nn.Module):
    """Knows images of shape (B, C, H, W) and nothing else."""

    def __init__(self, z_dim, hidden_dim, pixels):
        super().__init__()
        self.z_dim, self.pixels = z_dim, pixels
        self.fc = nn.Linear(z_dim, hidden_dim * 4)
        self.conv = nn.ConvTranspose2d(hidden_dim, 1, 2, stride=2)
        self.dropout = nn.Dropout(0.2)

    def forward(self, z):
        if z.dim() != 2:
            raise RuntimeError(f"expected (B, D), got {tuple(z.shape)}")
        image = self.conv(self.dropout(self.fc(z)).view(-1, self.fc.out_features // 4, 2, 2))
        return torch.sigmoid(image).reshape(-1, self.pixels)


class TutorialVAE(nn.Module):
    """The VAE of Pyro's tutorial, with the size as an argument."""

    def __init__(self, pixels=SIDE * SIDE, z_dim=3, hidden_dim=16, decoder=Decoder):
        super().__init__()
        self.encoder = Encoder(z_dim, hidden_dim, pixels)
        self.decoder = decoder(z_dim, hidden_dim, pixels)
        self.z_dim, self.pixels = z_dim, pixels

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], self.z_dim, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder.forward(z)
            pyro.sample("obs", dist.Bernoulli(loc_img).to_event(1), obs=x.reshape(-1, self.pixels))
            return loc_img

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder.forward(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


def images(n=60):
    generator = torch.Generator().manual_seed(0)
    on = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
    chance = torch.where(on, torch.linspace(0.05, 0.95, SIDE), torch.linspace(0.95, 0.05, SIDE))
    return (torch.rand(n, 1, SIDE, SIDE, generator=generator) < chance).float()


@pytest.fixture(params=[Decoder, ConvDecoder], ids=["mlp", "conv"])
def vae(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TutorialVAE(decoder=request.param)


def test_the_tutorials_vae_serves_every_function(vae):
    x = images()
    story, guide = adopt(vae.model, vae.guide)
    sites = check_story(story, x)
    assert list(sites.latent) == ["latent"] and list(sites.observed) == ["obs"]
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    start = ppvae.elbo(story, guide, x, num_particles=20).mean().value
    history = ppvae.fit(story, guide, x, epochs=15, batch_size=20, lr=1e-2, progress=False)
    assert all(not torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert ppvae.elbo(story, guide, x, num_particles=20).mean().value > start + 1.0
    assert history.records[-1]["epoch"] == 15
    found = ppvae.gaps(
        story,
        guide,
        x[:3],
        num_particles=50,
        annealing=ppvae.Annealing(num_chains=2, num_temperatures=4),
    )
    assert bool(torch.isfinite(found.inference_gap.value).all())
    story.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppvae.fit(story, guide, x, epochs=1, progress=False)
    rows = ppvae.generate(story, 5, seed=0)
    assert rows["obs"].shape == (5, SIDE * SIDE) and rows["latent"].shape == (5, 3)
    assert len(pyro.get_param_store()) == 0


def test_particles_of_an_adopted_model_equal_its_closed_form(vae):
    vae.double().eval()
    x = images(5).double()
    story, guide = adopt(vae.model, vae.guide)
    scores = Problem.of(story, guide, x).score(4)
    z = scores.latents["latent"]
    assert z.shape == (4, 5, 3)
    loc, scale = vae.encoder(x)
    pixels = torch.stack([vae.decoder(one) for one in z])
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    expected = expected + dist.Bernoulli(pixels).log_prob(x.flatten(1)).sum(-1)
    torch.testing.assert_close(scores.log_joint, expected)
    torch.testing.assert_close(scores.log_guide, dist.Normal(loc, scale).log_prob(z).sum(-1))
    scores.log_weights.sum().backward()
    assert all(p.grad is not None for p in vae.parameters())


def test_story_and_guide_own_their_networks_and_no_more(vae):
    story, guide = adopt(vae.model, vae.guide, example=images(2))
    assert {id(p) for p in story.parameters()} == {id(p) for p in vae.decoder.parameters()}
    assert {id(p) for p in guide.parameters()} == {id(p) for p in vae.encoder.parameters()}


def test_a_borrowed_module_follows_mode_and_precision():
    vae = TutorialVAE(decoder=ConvDecoder)
    story, guide = adopt(vae.model, vae.guide)
    story.double()
    assert vae.decoder.fc.weight.dtype == torch.float64
    story.eval()
    assert not vae.decoder.dropout.training
    story.train()
    trace_sites(story, images(2).double())
    assert vae.decoder.dropout.training
    history = ppvae.fit(story, guide, images(8), precision="float64", epochs=1, progress=False)
    assert history.column("epoch") == [1] and vae.encoder.fc1.weight.dtype == torch.float64


def test_a_copy_of_an_adopted_method_has_networks_of_its_own(vae):
    story, guide = adopt(vae.model, vae.guide, example=images(2))
    copied = deepcopy(story)
    before = [p.clone() for p in story.parameters()]
    ppvae.fit(copied, deepcopy(guide), images(20), epochs=1, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, story.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, copied.parameters(), strict=True))


def test_a_module_as_a_model_holds_each_parameter_once():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 4)

        def forward(self, x):
            pyro.module("net", self.net)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("obs", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)

    story, none = adopt(Model(), example=torch.zeros(2, 4))
    assert none is None and list(story.state_dict()) == ["module.net.weight", "module.net.bias"]


def model(x):
    scale = pyro.param("scale", torch.tensor(2.0), constraints.positive)
    loc = pyro.param("loc", lambda: torch.zeros(2))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("obs", dist.Normal(z + loc, scale).to_event(1), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.tensor(0.1))
    spread = pyro.param("spread", torch.ones(2), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, spread).to_event(1))


def test_functions_with_params_serve_every_function():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)) + 3.0
    story, adopted = adopt(model, guide, example=x)
    assert sorted(story.adopted) == ["loc", "scale"]
    start = ppvae.elbo(story, adopted, x, num_particles=20).mean().value
    ppvae.fit(story, adopted, x, epochs=30, lr=0.05, batch_size=10, progress=False)
    assert ppvae.elbo(story, adopted, x, num_particles=20).mean().value > start + 1.0
    z = torch.zeros(1, 50, 2)
    scale, loc = story.adopted["scale"].exp(), story.adopted["loc"]
    expected = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + dist.Normal(loc, scale).log_prob(x).sum(
        -1
    )
    torch.testing.assert_close(log_joint(story, x, {"z": z}), expected)  # positive: 2 > 0 by exp
    found = ppvae.gaps(story, adopted, x[:3], num_particles=50, method="iwae")
    assert float(found.approximation_gap.value.abs().max()) < 0.2  # a Normal is the exact family
    assert len(pyro.get_param_store()) == 0


def test_a_param_without_a_start_is_an_error():
    def bare(x):
        pyro.param("nowhere")

    with pytest.raises(ValueError, match=r"pyro.param\('nowhere'\)"):
        adopt(bare, example=torch.zeros(2))


def test_networks_inside_a_pyro_module_are_trained_too():
    net = PyroModule[nn.Linear](1, 2)

    def networked(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    story, _ = adopt(networked, example=torch.zeros(2, 2))
    assert {id(p) for p in story.parameters()} == {id(p) for p in net.parameters()}
    story.eval().double()
    assert not net.training and net.weight.dtype == torch.float64


def test_a_copy_of_a_function_with_networks_is_refused():
    net = nn.Linear(1, 2)

    def networked(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    story, _ = adopt(networked, example=torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"one parameter named 'net\$\$\$weight'.*adopt methods"):
        trace_sites(deepcopy(story), torch.zeros(2, 2))


def test_an_adopted_model_must_know_its_rows_before_it_generates():
    story, _ = adopt(model)
    with pytest.raises(ValueError, match="example=rows"):
        simulate(story, 3)
    with pytest.raises(ValueError, match="expected 3 rows of inputs, got 2"):
        simulate(story, 3, x=torch.zeros(2, 2))


def test_data_with_other_keys_than_the_models_arguments_are_an_error():
    def labelled(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(y, 1.0), obs=x)

    story, _ = adopt(labelled)
    trace_sites(story, {"x": torch.zeros(3), "y": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"\['x', 'y'\], got \['x', 'label'\]"):
        trace_sites(story, {"x": torch.zeros(3), "label": torch.zeros(3)})


def test_missing_values_are_refused():
    story, _ = adopt(model)
    x = torch.zeros(3, 2)
    x[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'x'.*row 1.*observes its data itself"):
        check_story(story, x)


def test_a_missing_data_plate_is_named():
    def bare(x):
        pyro.sample("obs", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match='plate named "data"'):
        check_story(adopt(bare)[0], torch.zeros(4))
