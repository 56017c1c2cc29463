r"""Each pair of story and guide is checked and traced once; nothing is traced for a piece, a chunk
or an epoch.
"""

from collections import Counter

import exact
import pytest
import torch
from pyro.poutine.trace_messenger import TraceMessenger

import ppvae
from ppvae.config import Annealing, EvidenceConfig, TrainConfig
from ppvae.problem import Problem
from ppvae.story import conditioning

GUIDES = ("mean_field", "full_rank", "iaf")
FEW = EvidenceConfig(
    method="best", num_particles=30, elbo_particles=10, local_steps=2, num_simulated=2,
    annealing=Annealing(num_chains=2, num_temperatures=2, num_leapfrog=1),
)  # fmt: skip


@pytest.fixture
def counts(monkeypatch):
    """Calls of the check of a pair, of the trace of a story, and of Pyro's trace by anybody."""
    found = Counter()

    def count(owner, name, label):
        plain = getattr(owner, name)

        def counting(*args, **kwargs):
            found[label] += 1
            return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(Problem, "_with_checked_guide", "pair checked")
    count(conditioning, "_traced", "story traced")
    count(TraceMessenger, "__init__", "pyro trace")
    return found


@pytest.fixture(scope="module")
def story_and_guides():
    story = exact.linear_gaussian(4, 2)
    rows = exact.rows_of(story, 12)
    torch.manual_seed(0)
    guides = {name: ppvae.guides.build(name, story, rows, hidden=(4,)) for name in GUIDES}
    return story, guides, rows


@pytest.mark.parametrize("rows_per_piece", [100, 3])
def test_gaps_check_and_trace_once_however_many_the_pieces(
    story_and_guides, counts, rows_per_piece
):
    story, guides, rows = story_and_guides
    ppvae.gaps(story, guides["mean_field"], rows, config=FEW, rows_per_piece=rows_per_piece)
    assert counts == {"pair checked": 1, "story traced": 1, "pyro trace": 2}  # one simulates rows


@pytest.mark.parametrize(("epochs", "rows_per_piece"), [(1, 100), (3, 3)])
def test_compare_checks_each_pair_once_however_long_it_trains(
    story_and_guides, counts, epochs, rows_per_piece
):
    story, guides, rows = story_and_guides
    league = ppvae.compare(
        story, guides, rows, val={"x": rows["x"][:4]}, rows=6,
        train=TrainConfig(epochs=epochs, batch_size=6, progress=False),
        evidence=FEW.replace(rows_per_piece=rows_per_piece),
    )  # fmt: skip
    assert len(league.gaps) == len(GUIDES)
    assert counts["pair checked"] == len(GUIDES)
    assert counts["story traced"] == len(GUIDES)
