r"""Settings: records that print, go to JSON and back, and refuse what they do not know."""

import math

import pytest

from ppvae.config import Annealing, EvidenceConfig, TrainConfig


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(clip_norm=math.inf, clip_factor=None, objective_options={"beta": 0.5}),
        EvidenceConfig(method="ais", annealing=Annealing(num_chains=3, resample=True)),
        Annealing(temperature_schedule="adaptive"),
    ],
)
def test_settings_come_back_from_json(config):
    assert type(config).from_json(config.to_json()) == config
    assert type(config).from_dict(config.to_dict()) == config


def test_an_unknown_field_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"got 'epoch'; did you mean 'epochs'\?"):
        TrainConfig().replace(epoch=3)
    with pytest.raises(ValueError, match="expected fields among method, .*got 'colour'"):
        EvidenceConfig.from_dict({"colour": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(lr=-1.0), "expected a positive lr, got -1.0"),
        (lambda: TrainConfig(epochs=0), "expected epochs of at least 1, got 0"),
        (lambda: TrainConfig(ema_decay=1.0), "expected ema_decay from 0"),
        (lambda: TrainConfig(compile="jit"), "expected compile among auto, off"),
        (lambda: EvidenceConfig(num_particles=2.5), "expected a whole number as num_particles"),
        (lambda: Annealing(conditional_ess=1.0), "expected conditional_ess between 0 and 1"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_options_may_be_given_as_none():
    assert TrainConfig(objective_options=None).objective_options == {}
