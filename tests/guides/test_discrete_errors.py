r"""What a guide of discrete sites refuses, and what it says then."""

import pytest
from discrete_stories import DRAWS, Codes, Counts, made
from stories import CASES, rows_of
from test_summing import GaussianMixture

import ppvae


@pytest.mark.parametrize("family", ["mean_field", "iaf", "structured"])
def test_a_continuous_guide_on_a_discrete_story_names_site_and_guides(family):
    with pytest.raises(ValueError, match=r"only the discrete.*word.*categorical or concrete"):
        made(family, Codes())
    with pytest.raises(ValueError, match=r"'k'.*enumerated.*categorical or concrete"):
        made(family, GaussianMixture())


@pytest.mark.parametrize("family", DRAWS)
def test_a_discrete_guide_on_a_continuous_story_says_so(family):
    case = CASES["two_sites"]
    story = case.story()
    with pytest.raises(ValueError, match=r"discrete latent site.*mean_field"):
        ppvae.guides.build(family, story, rows_of(case, story))


def test_concrete_wants_corners_to_lie_between():
    with pytest.raises(ValueError, match=r"site 'heads'.*OneHotCategorical or Bernoulli"):
        made("concrete", Counts())


def test_enumerated_with_a_continuous_site_points_to_the_others():
    with pytest.raises(ValueError, match=r"only discrete.*\['z'\].*mean_field"):
        made("enumerated", Codes(continuous=True))


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": 0.1}, {"cooling": 1.0}, {"cooling": -0.1}]
)
def test_temperatures_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="0 < final_temperature <= temperature"):
        made("concrete", Codes(), **options)
