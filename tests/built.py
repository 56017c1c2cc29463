r"""Guides for tests: made from a seed, away from their special start where a test wants that."""

import torch
from stories import CASES, rows_of

from ppvae import guides


def seeded_guide(family, story, batch, /, seed=0, moved=0.0, **options):
    """A guide whose initial parameters, and moves by `moved` times a Normal draw, come from a
    seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = guides.build(family, story, batch, **{"hidden": (16,), **options})
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.add_(moved * torch.randn_like(parameter))
    return guide


def built(name, family, /, seed=0, moved=0.1, num_rows=12, **options):
    """A story of `CASES`, rows of it, and a guide away from its start."""
    story = CASES[name].story()
    batch = rows_of(CASES[name], story, num_rows)
    return story, batch, seeded_guide(family, story, batch, seed, moved, **options)
