r"""What does AEVB look like in plain Pyro? A story, a guide made from it, and `pyro.infer.SVI`."""

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

import ppvae

SEED, EPOCHS, BATCH_SIZE = 0, 20, 100


def main(epochs: int = EPOCHS) -> dict[str, float]:
    """Train on digits; returns the ELBO before and after, in nats per row."""
    pyro.set_rng_seed(SEED)
    pyro.clear_param_store()
    rows = ppvae.data.load("digits", split="train")
    story = ppvae.stories.load("vae", rows.batch())
    guide = ppvae.guides.build("mean_field", story, rows)
    before = float(ppvae.elbo(story, guide, rows).mean().value)
    svi = SVI(ppvae.observe(story), guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    order = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        for batch in rows.batches(BATCH_SIZE, shuffle=True, generator=order):
            svi.step(batch)
    after = float(ppvae.elbo(story, guide, rows).mean().value)
    return {"before": before, "after": after}


if __name__ == "__main__":
    for when, elbo in main().items():
        print(f"{when:<8}{elbo:8.2f} nats per row")
