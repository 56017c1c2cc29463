r"""A guide of any family for a test story, with parameters away from their special start."""

import torch
from stories import CASES, rows_of

from ppvae import guides


def built(name, family, /, seed=0, moved=0.1, num_rows=12, **options):
    """A story of `CASES`, rows of it, and a guide whose parameters are moved by `moved` times a Normal draw."""
    story = CASES[name].story()
    batch = rows_of(CASES[name], story, num_rows)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = guides.build(family, story, batch, hidden=(16,), **options)
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.add_(moved * torch.randn_like(parameter))
    return story, batch, guide
