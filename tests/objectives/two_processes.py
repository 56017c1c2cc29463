r"""Run by torchrun in two processes: every objective inside DistributedDataParallel, each process
on half of the rows."""

import sys

import torch
import torch.distributed as distributed
from torch.nn.parallel import DistributedDataParallel

import ppvae
from ppvae import objectives
from ppvae.objectives import OBJECTIVES
from ppvae.stories import load as load_story
from ppvae.story import local_params, seeded_eval

NUM_ROWS = 12


def main(path: str) -> None:
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    torch.manual_seed(0)
    x = torch.rand(NUM_ROWS, 20).round()
    story = load_story("vae", {"x": x}, latent_dim=2, hidden=(8,))
    guide = ppvae.guides.build("mean_field", story, x, hidden=(8,))
    found = {}
    for name in OBJECTIVES:
        objective = objectives.build(name, story, guide, x, num_particles=3)
        own = [_gradient(objective, objective, {"x": half}) for half in x.chunk(2)]
        together = _gradient(DistributedDataParallel(objective), objective, {"x": x.chunk(2)[rank]})
        found[name] = torch.stack([together, (own[0] + own[1]) / 2])
    torch.save(found, f"{path}/{rank}.pt")
    distributed.destroy_process_group()


def _gradient(called, objective, batch):
    objective.zero_grad()
    with local_params(objective), seeded_eval(0, objective):
        called(batch).backward()
    return torch.cat([p.grad.flatten() for p in objective.parameters()])


if __name__ == "__main__":
    main(sys.argv[1])
