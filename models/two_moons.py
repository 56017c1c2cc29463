r"""Two moons: a distance and a bearing's size put a point on two facing crescents.

Story
    Each row is a point on a plane. A range finder reports its distance from the origin; a second
    gauge reports how far east *or* west of the origin it lies, and does not say which. Given both
    reports the point lies on one of two crescents.

Program
    z ~ Normal(0, 2^2 I_2)
    distance ~ Normal(|z|, 0.4^2)
    breadth ~ Normal(|z_1|, 0.6^2)

Graph
    +-- data (n) -------------------+
    |   (z) ---> [distance]         |
    |     \----> [breadth]          |
    +-------------------------------+

Sites
    | name     | role     | shape | support | unit       |
    |----------|----------|-------|---------|------------|
    | z        | latent   | (2,)  | real    | kilometres |
    | distance | observed | ()    | real    | kilometres |
    | breadth  | observed | ()    | real    | kilometres |

Exact results
    The posterior is even in both coordinates. With two latent numbers a row, a grid gives log p(x).

Source
    D. J. Rezende, S. Mohamed (2015). Variational inference with normalizing flows (their first
    potential).
"""

__all__ = ["TwoMoons"]

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints


class TwoMoons(PyroModule):
    """A point on a plane, seen by its distance and by the size of its first coordinate.

    Arguments:
        distance_scale: Standard deviation of the distance's report, in kilometres.
        breadth_scale: Standard deviation of the breadth's report, in kilometres.
    """

    example: ClassVar[str] = "simulated"

    def __init__(self, distance_scale: float = 0.4, breadth_scale: float = 0.6) -> None:
        super().__init__()
        self.distance_scale: Any = PyroParam(torch.tensor(distance_scale), constraints.positive)
        self.breadth_scale: Any = PyroParam(torch.tensor(breadth_scale), constraints.positive)
        self.register_buffer("zero", torch.zeros(2))

    def forward(self, n: int) -> None:
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(self.zero, 2.0).to_event(1))  # (n, 2)
            pyro.sample("distance", dist.Normal(z.norm(dim=-1), self.distance_scale))
            pyro.sample("breadth", dist.Normal(z[..., 0].abs(), self.breadth_scale))
