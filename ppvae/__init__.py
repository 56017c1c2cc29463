r"""Variational autoencoders as probabilistic programs.

Write the generative story of your data as a Pyro program; `ppvae` makes the guide (an amortized
posterior), trains both with SVI, and tells in nats how good the inference is.

Read the code in this order:

1. `story`       what a generative program must offer, and how it is conditioned and scored
2. `guides`      the amortized families, and `local`: the same families without amortization
3. `problem`     log p − log q per particle and row: the one place where story and guide meet
4. `inference`   bounds on log p(x), estimates of it, and the search for the best guide of a row
5. `objectives`  the training losses, and their gradients side by side
6. `training`    `fit`, its loop and its callbacks
7. `gaps`        approximation gap and amortization gap, and `compare`, the league table
8. `diagnostics` which rows to distrust
9. `predict`, `viz`, `cli`  generated and filled rows, figures and pages, the command line

Names are imported when they are first used, so that the command line starts at once.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppvae import (
        data,
        diagnostics,
        guides,
        inference,
        nets,
        objectives,
        predict,
        problem,
        runs,
        stories,
        story,
        training,
    )
    from ppvae.compare import League, compare
    from ppvae.config import Annealing, EvidenceConfig, TrainConfig
    from ppvae.diagnostics.diagnose import diagnose
    from ppvae.estimate import Estimate
    from ppvae.export import to_arviz
    from ppvae.gaps import Gaps, gaps
    from ppvae.inference.bdmc import Sandwich, bdmc, certify
    from ppvae.inference.bounds import elbo, iwelbo, log_weights
    from ppvae.inference.log_evidence import log_evidence
    from ppvae.objectives.bench import EstimatorBench, estimator_bench
    from ppvae.predict import embed, generate, impute, interpolate, reconstruct, traverse
    from ppvae.problem import Problem
    from ppvae.runs import open_run
    from ppvae.storage.weights import load, save
    from ppvae.story import adopt, check_story, log_joint, observe, simulate
    from ppvae.training import Callback, History, TensorBoard
    from ppvae.training.fit import fit
    from ppvae.viz import plots
    from ppvae.viz.report import report

_PUBLIC = {
    "Annealing": "config",
    "Callback": "training",
    "Estimate": "estimate",
    "EvidenceConfig": "config",
    "EstimatorBench": "objectives.bench",
    "Gaps": "gaps",
    "History": "training",
    "League": "compare",
    "Problem": "problem",
    "Sandwich": "inference",
    "TensorBoard": "training",
    "TrainConfig": "config",
    "adopt": "story",
    "bdmc": "inference",
    "certify": "inference",
    "check_story": "story",
    "compare": "compare",
    "diagnose": "diagnostics",
    "elbo": "inference",
    "embed": "predict",
    "estimator_bench": "objectives.bench",
    "fit": "training.fit",
    "gaps": "gaps",
    "generate": "predict",
    "impute": "predict",
    "interpolate": "predict",
    "iwelbo": "inference",
    "load": "storage.weights",
    "log_evidence": "inference",
    "log_joint": "story",
    "log_weights": "inference.bounds",
    "observe": "story",
    "open_run": "runs",
    "reconstruct": "predict",
    "report": "viz.report",
    "save": "storage.weights",
    "simulate": "story",
    "to_arviz": "export",
    "traverse": "predict",
}
_MODULES = {
    "data": "data",
    "diagnostics": "diagnostics",
    "guides": "guides",
    "inference": "inference",
    "nets": "nets",
    "objectives": "objectives",
    "plots": "viz.plots",
    "predict": "predict",
    "problem": "problem",
    "runs": "runs",
    "stories": "stories",
    "story": "story",
    "training": "training",
}

__all__ = [
    "Annealing",
    "Callback",
    "Estimate",
    "EstimatorBench",
    "EvidenceConfig",
    "Gaps",
    "History",
    "League",
    "Problem",
    "Sandwich",
    "TensorBoard",
    "TrainConfig",
    "adopt",
    "bdmc",
    "certify",
    "check_story",
    "compare",
    "data",
    "diagnose",
    "diagnostics",
    "elbo",
    "embed",
    "estimator_bench",
    "fit",
    "gaps",
    "generate",
    "guides",
    "impute",
    "inference",
    "interpolate",
    "iwelbo",
    "load",
    "log_evidence",
    "log_joint",
    "log_weights",
    "nets",
    "objectives",
    "observe",
    "open_run",
    "plots",
    "predict",
    "problem",
    "reconstruct",
    "report",
    "runs",
    "save",
    "simulate",
    "stories",
    "story",
    "to_arviz",
    "training",
    "traverse",
]


class _Public:
    """A public name, imported when it is first asked for.

    A descriptor on the package's class rather than a module `__getattr__`: files and functions
    share names (`fit`, `gaps`, `compare`, `report`), and importing the file must not replace the
    function.
    """

    def __init__(self, name: str, module: str) -> None:
        self.name, self.module = name, module

    def __get__(self, package: ModuleType, owner: type) -> Any:
        return getattr(import_module(f"ppvae.{self.module}"), self.name)

    def __set__(self, package: ModuleType, value: Any) -> None:
        """The import system puts the file of the same name here: the function stays."""


_Package = type(
    "_Package", (ModuleType,), {name: _Public(name, module) for name, module in _PUBLIC.items()}
)
sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        metadata = import_module("importlib.metadata")  # slow to import
        try:
            return metadata.version("ppvae")
        except metadata.PackageNotFoundError:
            return "0.0.0"  # not installed
    if name in _MODULES:
        return import_module(f"ppvae.{_MODULES[name]}")
    raise AttributeError(f"module 'ppvae' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
