r"""The hand-off to ArviZ: draws, densities and data in groups with named dimensions.

The only file that knows ArviZ's two generations: up to 0.23 groups live in an `InferenceData`, from
1.0 on in an `xarray.DataTree`. The groups themselves are the same.
"""

__all__ = ["GROUPS", "elpd", "to_arviz"]

import warnings
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ppvae.data.chunks import particle_step
from ppvae.diagnostics.loo import LeaveOneOut
from ppvae.diagnostics.scored_draws import cat_nested, score_draws
from ppvae.inference.khat import smooth_log_weights
from ppvae.problem import Problem, missing_as
from ppvae.problem.generation import replicate
from ppvae.story import Site, Sites, TensorDict, simulate

GROUPS = (
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "prior",
    "prior_predictive",
    "observed_data",
    "constant_data",
)
# Fields of ArviZ's record -> their names before 1.0.
OLD_NAMES = {"elpd": "elpd_loo", "p": "p_loo", "elpd_i": "loo_i"}
FROM_GUIDE = set(GROUPS[:4])
SAMPLED: dict[str, Any] = {"sample_dims": ["chain", "draw"]}
GLOBAL_STATS = ("log_p_global", "log_q_global")


def to_arviz(
    story: nn.Module,
    guide: nn.Module,
    data: Any,
    *,
    num_samples: int = 1000,
    num_chains: int = 4,
    corrected: bool = False,
    groups: Collection[str] = GROUPS,
    seed: int = 0,
) -> Any:
    """Draws of guide and story with their densities, as ArviZ wants them.

    Dimensions are `chain`, `draw`, `row`, the names of inner plates, and `site_dim_0`, ... for the
    rest. The guide's draws are independent: they are dealt to chains only because ArviZ expects
    some, so that its R-hat and ESS say nothing about the guide.

    `arviz.loo` runs on the result and takes the guide's draws for the posterior's;
    `ppvae.diagnostics.loo` corrects for what the guide is off. Both warn by Pareto k where a row
    has latent sites of its own: without its x a row knows nothing of its z, so that leaving the row
    out leads from posterior all the way to prior. With the story's parameters fixed, what they look
    for is log p(x) of the row, and `ppvae.log_evidence` measures that.

    All of it is held in memory: draws times rows times the size of a row for each predictive group.
    Leave groups out, or pass fewer rows.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_samples: Draws of each row over all chains.
        num_chains: Divides `num_samples`.
        corrected: Whether draws are resampled by their smoothed importance weights, so that
            posterior and `loo` are those of the story rather than of the guide, as far as the k-hat
            of the row allows.
        groups: Which groups to make, of `GROUPS`. `sample_stats` holds log p(x, z) and log q(z | x)
            of each row, and apart from them those of the global sites (`log_p_global`,
            `log_q_global`), if there are any; `log_likelihood` holds log p(x | z) of each observed
            site and row; all in nats.
        seed: Seed of the draws.

    Returns:
        An `arviz.InferenceData` (ArviZ below 1.0) or an `xarray.DataTree` (1.0 and later); both
        have `to_netcdf`.

    Raises:
        ValueError: If a group is unknown, the chains do not divide the draws, or `corrected` is
            asked of a story with global latent sites.

    Source:
        M. Magnusson, M. Andersen, J. Jonasson, A. Vehtari (2019). Bayesian leave-one-out
        cross-validation for large data.
    """
    unknown = sorted(set(groups) - set(GROUPS))
    if unknown or not groups:
        raise ValueError(f"expected groups among {', '.join(GROUPS)}; got {unknown or 'none'}")
    if num_samples < 1 or num_chains < 1 or num_samples % num_chains:
        raise ValueError(
            f"expected num_chains to divide num_samples, got {num_samples} draws in {num_chains} "
            "chains"
        )
    problem = Problem.of(story, guide, data, independent_for="corrected draws" if corrected else "")
    made: dict[str, TensorDict] = {}
    with torch.no_grad(), problem.eval_mode(seed):
        if FROM_GUIDE & set(groups):
            # One draw of a global site belongs to all rows: they are not cut into pieces.
            has_global = bool(problem.sites.global_latent)
            step = problem.num_rows if has_global else None
            parts = [
                _from_guide(piece, num_samples, corrected, groups) for piece in problem.pieces(step)
            ]
            made |= cat_nested(parts, dim=1)
        if {"prior", "prior_predictive"} & set(groups):
            made |= _from_story(problem, num_samples)
    batch, observed = problem.batch, problem.sites.observed
    made["observed_data"] = {k: v for k, v in batch.items() if k in observed}
    made["constant_data"] = {k: v for k, v in batch.items() if k not in observed}
    wanted = {name: made[name] for name in GROUPS if name in groups and made.get(name)}
    return _container(
        {name: _dataset(name, group, problem.sites, num_chains) for name, group in wanted.items()}
    )


def _from_guide(
    problem: Problem, num_samples: int, corrected: bool, groups: Collection[str]
) -> dict[str, TensorDict]:
    """Draws of the guide and what follows from them: group -> variable -> `(S, B, *)`."""
    draws = score_draws(problem, num_samples)
    made: dict[str, TensorDict] = {
        "posterior": draws.latents,
        "sample_stats": {"log_p": draws.log_joint, "log_q": draws.log_guide},
        "log_likelihood": draws.log_likelihood,
    }
    if problem.sites.global_latent:
        global_stats = draws.log_joint_global, draws.log_guide_global
        made["sample_stats"] |= dict(zip(GLOBAL_STATS, global_stats, strict=True))
    if corrected:
        weights = smooth_log_weights(draws.log_weights).softmax(0)
        picks = torch.multinomial(weights.T, num_samples, replacement=True).T
        columns = torch.arange(problem.num_rows, device=picks.device)
        made = {g: {k: v[picks, columns] for k, v in made[g].items()} for g in made}
    if "posterior_predictive" in groups:
        step = particle_step(problem.batch, problem.num_rows)
        latents, starts = made["posterior"], range(0, num_samples, step)
        parts = [{k: v[i : i + step] for k, v in latents.items()} for i in starts]
        made["posterior_predictive"] = cat_nested([replicate(problem, part) for part in parts])
    return made


def _from_story(problem: Problem, num_samples: int) -> dict[str, TensorDict]:
    """As many data sets of the story's own as there are draws."""
    inputs: dict[str, Any] = problem.program.inputs(problem.batch)
    drawn = [simulate(problem.story, problem.num_rows, **inputs) for _ in range(num_samples)]
    values = {k: torch.stack([one[k] for one in drawn]) for k in problem.sites}
    return {
        "prior": {k: values[k] for k in problem.sites.latent},
        "prior_predictive": {
            k: missing_as(values[k], problem.batch.get(k)) for k in problem.sites.observed
        },
    }


def _dataset(group: str, variables: TensorDict, sites: Sites, num_chains: int) -> Any:
    import xarray

    sampled = group not in ("observed_data", "constant_data")
    per_row = group in ("sample_stats", "log_likelihood")
    arrays: dict[str, tuple[list[str], np.ndarray]] = {}
    for name, tensor in variables.items():
        value = tensor.detach().cpu().numpy()
        dims = _dims(name, sites.get(name), value.ndim - sampled)
        if per_row:
            dims = [] if name in GLOBAL_STATS else ["row"]
        if sampled:  # draw by draw to the chains
            dims = ["chain", "draw", *dims]
            value = value.reshape(num_chains, -1, *value.shape[1:])
        arrays[name] = (dims, value)
    attrs = {"inference_library": "ppvae"} | (SAMPLED if sampled else {})
    dataset = xarray.Dataset(arrays, attrs=attrs)
    return dataset.assign_coords({dim: np.arange(n) for dim, n in dataset.sizes.items()})


def _dims(name: str, site: Site | None, num_dims: int) -> list[str]:
    """Names of a variable's dimensions without chain and draw: rows, inner plates, the event's."""
    named = ["row"] if site is None or site.is_local else []
    named += [f"plate_{p}" for p in site.inner_plates] if site is not None else []
    return named + [f"{name}_dim_{i}" for i in range(num_dims - len(named))]


def elpd(found: LeaveOneOut) -> Any:
    """Leave-one-out as ArviZ's own record, for `arviz.compare` and `arviz.plot_khat`.

    Arguments:
        found: What `ppvae.diagnostics.loo` found.

    Returns:
        An `ELPDData` of the installed ArviZ; its numbers are over all rows, in nats.
    """
    import xarray

    num_rows = len(found.khat)
    by_row = {
        name: xarray.DataArray(value.cpu().numpy(), dims=["row"], coords={"row": range(num_rows)})
        for name, value in (("elpd", found.elpd.value), ("khat", found.khat))
    }
    values = by_row["elpd"].values
    fields = {
        "elpd": float(values.sum()),
        "se": float((num_rows * values.var()) ** 0.5),
        "p": found.num_parameters,
        "n_samples": found.num_particles,
        "n_data_points": num_rows,
        "warning": bool((found.khat > found.threshold).any()),
        "good_k": found.threshold,
        "elpd_i": by_row["elpd"],
        "pareto_k": by_row["khat"],
    }
    record = _example_record()
    if not _is_old_arviz():
        return replace(record, **fields, approx_posterior=True)
    for name, value in fields.items():
        record[OLD_NAMES.get(name, name)] = value
    return record


def _example_record() -> Any:
    """Some leave-one-out record, whose numbers are then replaced: its class is private to ArviZ."""
    import arviz
    import xarray

    draws = np.random.default_rng(0).normal(size=(4, 50, 2))
    arrays = {"x": (["chain", "draw", "row"], draws)}
    groups = {k: xarray.Dataset(arrays, attrs=SAMPLED) for k in ("posterior", "log_likelihood")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return arviz.loo(_container(groups), pointwise=True)


def _is_old_arviz() -> bool:
    """Whether the installed ArviZ is of the generation before 1.0."""
    import arviz

    return int(arviz.__version__.partition(".")[0]) < 1


def _container(groups: dict[str, Any]) -> Any:
    """Groups in the container of the ArviZ that is installed."""
    import arviz
    import xarray

    if _is_old_arviz():
        return arviz.InferenceData(**groups)
    return xarray.DataTree.from_dict(groups)
