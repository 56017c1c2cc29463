r"""The guide league table: one story, several guides, and what each loses where."""

__all__ = ["League", "LeagueRow", "compare"]

from collections.abc import Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ppvae.config import TrainConfig
from ppvae.data import Rows, Stream, open_rows, preview, to_batch
from ppvae.gaps import NUM_SIMULATED, Gaps, certify, check_request, evidence_methods, gaps
from ppvae.inference import EvidenceConfig
from ppvae.league import League, LeagueRow
from ppvae.storage.league_folder import LeagueFolder, open_league_folder
from ppvae.story import TensorDict, check_data
from ppvae.training import History
from ppvae.training.distributed import on_main_process
from ppvae.training.fit import FREE, check_config, fit
from ppvae.training.signals import exit_on_sigterm

DECODERS = {
    "shared": "one trained story, every guide fitted to it: isolates the guide",
    "own": "each guide trains a story of its own: shows the story adapting to the guide",
}

# Settings that a report names although nobody asked for them.
USUAL = ("objective", "epochs", "batch_size", "optimizer", "lr", "seed", "patience")


def compare(
    story: nn.Module,
    guides: Mapping[str, nn.Module],
    data: Any,
    *,
    val: Any = None,
    test: Any = None,
    decoder: str = "shared",
    epochs: int = 100,
    batch_size: int = 100,
    lr: float = 1e-3,
    optimizer: str = "adam",
    schedule: str = "constant_then_linear",
    clip_norm: float | None = None,
    clip_factor: float | None = 10.0,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    objective: str = "trace_elbo",
    objective_options: Mapping[str, Any] | None = None,
    kl_warmup: int = 0,
    max_skips: int = 0,
    precision: str = "auto",
    rows: int = 100,
    evidence: str = "auto",
    num_particles: int = 1000,
    seed: int = 0,
    device: str = "auto",
    patience: int | None = None,
    run_dir: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: float = 60.0,
    progress: bool = True,
) -> League:
    """Train and measure several guides on the same story and the same rows.

    The modules passed in stay as they are; the trained ones are in the result.

    Arguments:
        story: The story.
        guides: Name -> guide.
        data: Training rows, anything that `fit` takes.
        val: Validation rows for early stopping, likewise.
        test: Rows to measure on; None measures on training rows.
        decoder: `shared`: the story is trained with the first guide and frozen, then every guide is fitted to it;
            log p(x) is the best bound that any guide gave. `own`: each guide trains a copy of the story.
        epochs: Passes over the rows of each training.
        batch_size: Rows a step.
        lr: The optimiser's step size.
        optimizer, schedule, clip_norm, clip_factor, ema_decay, accumulate: As in `fit`.
        objective: A key of `ppvae.objectives.OBJECTIVES`.
        objective_options, kl_warmup, max_skips, precision: As in `fit`; particles of the objective are an option of it.
        rows: Rows to measure on, the first so many of `test`.
        evidence: How log p(x) is found, see `gaps`.
        num_particles: Particles of importance sampling and k-hat.
        seed: Seed of everything.
        device: As in `fit`.
        patience: As in `fit`.
        run_dir: Folder that keeps trainings and measurements as they go; must be empty or absent unless `resume`.
        resume: Go on with the comparison in `run_dir`, given the same story, guides, data and settings, wherever it
            was stopped; on CPU the league is the one of a comparison that was not stopped, to the bit.
        checkpoint_every: As in `fit`.
        progress: Show progress bars on a terminal.

    Returns:
        The league.

    Raises:
        ValueError: If there is no guide, an option is unknown, or story, guides and data do not fit; if another process
            works in `run_dir`, or what is there was begun with other settings.
        KeyboardInterrupt: After Ctrl-C; with a run folder what is done is kept.
        SystemExit: After SIGTERM, likewise, with exit code 143; only with a run folder.
    """
    config = TrainConfig(
        objective=objective, objective_options=objective_options or {}, epochs=epochs, batch_size=batch_size,
        accumulate=accumulate, optimizer=optimizer, lr=lr, schedule=schedule, clip_norm=clip_norm,
        clip_factor=clip_factor, ema_decay=ema_decay, kl_warmup=kl_warmup, patience=patience,
        max_skips=max_skips, seed=seed, device=device, precision=precision,
        checkpoint_every=checkpoint_every, progress=progress,
    )  # fmt: skip
    check_config(config)
    if not guides:
        raise ValueError("expected at least one guide, got none")
    if decoder not in DECODERS:
        raise ValueError(f"expected a decoder among {', '.join(DECODERS)}; got '{decoder}'")
    if patience is not None and val is None:
        raise ValueError(f"expected validation rows (val) for patience={patience}, got val=None")
    if rows < 1:
        raise ValueError(f"expected at least one row to measure on, got rows={rows}")
    train = open_rows(data)
    opened = train if test is None else open_rows(test)
    measured = opened.head(min(rows, len(opened)))
    check_data(story, to_batch(story, preview(train)))
    batch = to_batch(story, measured)
    check_data(story, batch)
    check_request(story, evidence, num_particles, batch)
    shown = {"data": train.name, "rows": len(measured), "evidence": evidence}
    settings = {k: v for k, v in config.to_dict().items() if k not in FREE} | {
        **shown, "num_particles": num_particles, "decoder": decoder, "guides": list(guides), "training rows": len(train),
    }  # fmt: skip
    is_shared = decoder == "shared"
    measure: dict[str, Any] = {
        "evidence": evidence, "num_particles": num_particles, "seed": seed, "progress": progress,
        # one story needs one certificate, for the guide whose evidence is taken
        "num_simulated": 0 if is_shared else NUM_SIMULATED,
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(exit_on_sigterm())
        opened = open_league_folder(run_dir, settings, resume=resume)
        folder = on_main_process(lambda: stack.enter_context(opened))
        trained = _train_all(story, guides, train, val, decoder, config, folder)

        def measured_gaps() -> dict[str, Gaps]:
            found = {
                name: gaps(s, g, measured, checkpoint=folder.measurement(name), **measure)
                for name, (s, g, _) in trained.items()
            }
            if not is_shared:
                return found
            anneals = any(
                "ais" in evidence_methods(story, evidence, batch, g) for g in guides.values()
            )
            effort = EvidenceConfig(num_particles, seed=seed) if anneals else None
            return _share_evidence(found, trained, batch, effort, folder.measurement())

        found = on_main_process(measured_gaps)
    return League(
        gaps=found,
        histories={n: h for n, (_, _, h) in trained.items()},
        stories={n: s for n, (s, _, _) in trained.items()},
        guides={n: g for n, (_, g, _) in trained.items()},
        decoder=decoder,
        num_particles=num_particles,
        settings=_shown(config) | shown,
    )


def _shown(config: TrainConfig) -> dict[str, Any]:
    """What a report names: the usual settings, and others where they are not what they are by default."""
    plain = TrainConfig().to_dict()
    return {k: v for k, v in config.to_dict().items() if k in USUAL or v != plain[k]}


def _train_all(
    story: nn.Module,
    guides: Mapping[str, nn.Module],
    data: Rows | Stream,
    val: Any,
    decoder: str,
    config: TrainConfig,
    folder: LeagueFolder,
) -> dict[str, tuple[nn.Module, nn.Module, History]]:
    """Train copies of story and guides; the parts of the result are (story, guide, history)."""
    if decoder == "own":
        trained = {}
        for name, guide in guides.items():
            own_story, own_guide = deepcopy((story, guide))  # together: they may share modules
            history = fit(
                own_story, own_guide, data, val=val, config=config, **folder.training(name)
            )
            trained[name] = (own_story, own_guide, history)
        return trained
    shared, first = deepcopy((story, next(iter(guides.values()))))
    fit(shared, first, data, val=val, config=config, **folder.training())
    shared.requires_grad_(False)
    trained = {}
    parts = dict(zip(map(id, story.modules()), shared.modules(), strict=True))
    for name, guide in guides.items():
        fitted = deepcopy(guide, dict(parts))  # what it shares with the story, it goes on sharing
        history = fit(shared, fitted, data, val=val, config=config, **folder.training(name))
        trained[name] = (shared, fitted, history)
    return trained


def _share_evidence(
    found: dict[str, Gaps],
    trained: dict[str, tuple[nn.Module, nn.Module, History]],
    batch: TensorDict,
    effort: EvidenceConfig | None,
    checkpoint: Path | None,
) -> dict[str, Gaps]:
    """One story has one log p(x): the best lower bound in mean, whichever guide it came from."""
    best = max(found, key=lambda n: float(found[n].log_evidence.value.mean()))
    story, guide, _ = trained[best]
    certificate = None
    if effort is not None:
        certificate = certify(story, guide, batch, effort, NUM_SIMULATED, checkpoint)
    method = found[best].method
    shared: dict[str, Any] = {
        "log_evidence": found[best].log_evidence,
        "method": method if method == "exact" else f"{method} from {best}",
        "certificate": certificate,
    }
    return {n: replace(g, **shared) for n, g in found.items()}
