r"""The hand-off to ArviZ: draws, densities and data in groups with named dimensions.

The only file that knows ArviZ's two generations: up to 0.23 groups live in an `InferenceData`, from 1.0 on in an
`xarray.DataTree`. The groups themselves are the same.
"""

__all__ = ["GROUPS", "elpd", "to_arviz"]

import warnings
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import arviz
import numpy as np
import torch
import xarray
from torch import Tensor, nn

from ppvae.data import to_batch
from ppvae.data.chunks import particle_step, row_chunks
from ppvae.diagnostics.loo import LeaveOneOut
from ppvae.inference.khat import smooth_log_weights
from ppvae.problem.particles import (
    inputs_of,
    log_prob_by_site,
    missing_as,
    replicate,
    unknown_rows,
)
from ppvae.problem.weights import check_pair, draw_all, refuse_global
from ppvae.story import Site, Sites, TensorDict, num_rows_of, seeded_eval, simulate

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

    Dimensions are `chain`, `draw`, `row`, the names of inner plates, and `site_dim_0`, ... for the rest. The guide's
    draws are independent: they are dealt to chains only because ArviZ expects some, so that its R-hat and ESS say
    nothing about the guide.

    `arviz.loo` runs on the result and takes the guide's draws for the posterior's; `ppvae.diagnostics.loo` corrects for
    what the guide is off. Both warn by Pareto k where a row has latent sites of its own: without its x a row knows nothing
    of its z, so that leaving the row out leads from posterior all the way to prior. With the story's parameters fixed, what
    they look for is log p(x) of the row, and `ppvae.log_evidence` measures that.

    All of it is held in memory: draws times rows times the size of a row for each predictive group. Leave groups
    out, or pass fewer rows.

    Arguments:
        story: The story.
        guide: Its guide.
        data: Rows, anything that `ppvae.data.as_rows` takes.
        num_samples: Draws of each row over all chains.
        num_chains: Divides `num_samples`.
        corrected: Whether draws are resampled by their smoothed importance weights, so that posterior and `loo` are
            those of the story rather than of the guide, as far as the k-hat of the row allows.
        groups: Which groups to make, of `GROUPS`. `sample_stats` holds log p(x, z) and log q(z | x) of each row, and apart
            from them those of the global sites (`log_p_global`, `log_q_global`), if there are any; `log_likelihood` holds
            log p(x | z) of each observed site and row; all in nats.
        seed: Seed of the draws.

    Returns:
        An `arviz.InferenceData` (ArviZ below 1.0) or an `xarray.DataTree` (1.0 and later); both have `to_netcdf`.

    Raises:
        ValueError: If a group is unknown, the chains do not divide the draws, or `corrected` is asked of a story with
            global latent sites.

    Source:
        M. Magnusson, M. Andersen, J. Jonasson, A. Vehtari (2019). Bayesian leave-one-out cross-validation for large
        data.
    """
    unknown = sorted(set(groups) - set(GROUPS))
    if unknown or not groups:
        raise ValueError(f"expected groups among {', '.join(GROUPS)}; got {unknown or 'none'}")
    if num_samples < 1 or num_chains < 1 or num_samples % num_chains:
        raise ValueError(
            f"expected num_chains to divide num_samples, got {num_samples} draws in {num_chains} chains"
        )
    batch = to_batch(story, data)
    sites = check_pair(story, guide, batch)
    if corrected:
        refuse_global(sites, "corrected draws")
    made: dict[str, TensorDict] = {}
    with torch.no_grad(), seeded_eval(seed, story, guide):
        if FROM_GUIDE & set(groups):
            made |= _from_guide(story, guide, batch, sites, num_samples, corrected, groups)
        if {"prior", "prior_predictive"} & set(groups):
            made |= _from_story(story, batch, sites, num_samples)
    made |= _given(batch, sites)
    wanted = {name: made[name] for name in GROUPS if name in groups and made.get(name)}
    return _packed({k: _dataset(k, v, sites, num_chains) for k, v in wanted.items()})


def _from_guide(
    story: nn.Module,
    guide: nn.Module,
    batch: TensorDict,
    sites: Sites,
    num_samples: int,
    corrected: bool,
    groups: Collection[str],
) -> dict[str, TensorDict]:
    """Draws of the guide and what follows from them, rows in chunks: group -> variable -> `(S, B, *)`."""
    # One draw of a global site belongs to all rows: they cannot be cut apart.
    pieces = [batch] if sites.global_latent else list(row_chunks(batch, guide))
    found: list[dict[str, TensorDict]] = []
    for rows in pieces:
        step = num_samples
        if not (corrected or sites.global_latent):
            step = particle_step(batch, num_rows_of(rows))
        sizes = [min(step, num_samples - s) for s in range(0, num_samples, step)]
        parts = [_chunk(story, guide, rows, sites, n, corrected, groups) for n in sizes]
        found.append(_joined(parts, 0, sites))
    return _joined(found, 1, sites)


def _chunk(
    story: nn.Module,
    guide: nn.Module,
    rows: TensorDict,
    sites: Sites,
    num_samples: int,
    corrected: bool,
    groups: Collection[str],
) -> dict[str, TensorDict]:
    drawn = draw_all(story, guide, rows, num_samples, sites)
    latents = drawn.values
    log_p = log_prob_by_site(story, rows, latents, sites)
    local = [v for k, v in log_p.items() if k not in sites.global_latent]
    stats = {"log_p": torch.stack(local).sum(0), "log_q": drawn.local}
    if sites.global_latent:
        stats[GLOBAL_STATS[0]] = torch.stack([log_p[k] for k in sites.global_latent]).sum(0)
        stats[GLOBAL_STATS[1]] = drawn.shared
    likelihood = {
        k: log_p[k] * ~unknown_rows(rows[k]) if k in latents else log_p[k] for k in sites.observed
    }
    if corrected:
        picks = _resampled(stats["log_p"] - stats["log_q"])
        latents, stats, likelihood = (_picked(v, picks) for v in (latents, stats, likelihood))
    made = {"posterior": latents, "sample_stats": stats, "log_likelihood": likelihood}
    if "posterior_predictive" in groups:
        made["posterior_predictive"] = replicate(story, rows, latents, sites)
    return made


def _resampled(log_weights: Tensor) -> Tensor:
    """Numbers of particles drawn in proportion to their smoothed weights, `(S, B)`."""
    weights = smooth_log_weights(log_weights).softmax(0)
    return torch.multinomial(weights.T, len(weights), replacement=True).T


def _picked(values: TensorDict, picks: Tensor) -> TensorDict:
    columns = torch.arange(picks.shape[1], device=picks.device)
    return {k: v[picks, columns] for k, v in values.items()}


def _joined(parts: list[dict[str, TensorDict]], dim: int, sites: Sites) -> dict[str, TensorDict]:
    """Chunks of draws (dim 0) or of rows (dim 1) as one."""
    if len(parts) == 1:
        return parts[0]
    return {
        group: {k: torch.cat([p[group][k] for p in parts], dim) for k in variables}
        for group, variables in parts[0].items()
    }


def _from_story(
    story: nn.Module, batch: TensorDict, sites: Sites, num_samples: int
) -> dict[str, TensorDict]:
    """As many data sets of the story's own as there are draws."""
    inputs: dict[str, Any] = inputs_of(story, batch)
    drawn = [simulate(story, num_rows_of(batch), **inputs) for _ in range(num_samples)]
    whole = {k: torch.stack([one[k] for one in drawn]) for k in sites}
    return {
        "prior": {k: whole[k] for k in sites.latent},
        "prior_predictive": {k: missing_as(whole[k], batch.get(k)) for k in sites.observed},
    }


def _given(batch: TensorDict, sites: Sites) -> dict[str, TensorDict]:
    """The data: values of observed sites, and everything else that came with them."""
    return {
        "observed_data": {k: v for k, v in batch.items() if k in sites.observed},
        "constant_data": {k: v for k, v in batch.items() if k not in sites.observed},
    }


def _dataset(group: str, variables: TensorDict, sites: Sites, num_chains: int) -> xarray.Dataset:
    sampled = group not in ("observed_data", "constant_data")
    per_row = group in ("sample_stats", "log_likelihood")
    arrays: dict[str, tuple[list[str], np.ndarray]] = {}
    for name, tensor in variables.items():
        value = tensor.detach().cpu().numpy()
        lead = ["chain", "draw"] if sampled else []
        if sampled:  # draw by draw to the chains
            value = value.reshape(num_chains, -1, *value.shape[1:])
        own = _dims(name, sites.get(name), value.ndim - len(lead))
        if per_row:
            own = [] if name in GLOBAL_STATS else ["row"]
        arrays[name] = ([*lead, *own], value)
    sizes = {
        d: n for dims, value in arrays.values() for d, n in zip(dims, value.shape, strict=True)
    }
    coords = {d: np.arange(n) for d, n in sizes.items()}
    attrs = {"inference_library": "ppvae"} | (SAMPLED if sampled else {})
    return xarray.Dataset(arrays, coords=coords, attrs=attrs)


def _dims(name: str, site: Site | None, num_dims: int) -> list[str]:
    """Names of a variable's own dimensions: rows, inner plates, then the event's."""
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
    record = _any_record()
    if not _is_old():
        return replace(record, **fields, approx_posterior=True)
    for name, value in fields.items():
        record[OLD_NAMES.get(name, name)] = value
    return record


def _any_record() -> Any:
    """Some leave-one-out record, whose numbers are then replaced: its class is ArviZ's own affair."""
    draws = np.random.default_rng(0).normal(size=(4, 50, 2))
    arrays = {"x": (["chain", "draw", "row"], draws)}
    some = {k: xarray.Dataset(arrays, attrs=SAMPLED) for k in ("posterior", "log_likelihood")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return arviz.loo(_packed(some), pointwise=True)


def _is_old() -> bool:
    """Whether the installed ArviZ is of the generation before 1.0."""
    return int(arviz.__version__.partition(".")[0]) < 1


def _packed(groups: dict[str, xarray.Dataset]) -> Any:
    """Groups in the container of the ArviZ that is installed."""
    if _is_old():
        everything: Any = groups
        return arviz.InferenceData(**everything)
    return xarray.DataTree.from_dict(groups)
