r"""A comparison stopped anywhere goes on to the same league; what is done is not done again."""

import random
import resource
import signal
from pathlib import Path

import pytest
import torch

import ppvae
from ppvae.cli import main
from ppvae.config import Annealing, EvidenceConfig, TrainConfig
from ppvae.storage.league_folder import safe_names
from ppvae.storage.lock import locked
from ppvae.storage.results import ResultsFile
from ppvae.stories import load as load_story
from ppvae.training import Trainer

NAMES = ("mean_field", "full_rank:hidden=[4]")
CLOCK = ("seconds", "rows_per_second")
STEPS, PIECES, SIMULATED = 18, 6, 2  # of three trainings, of two measurements, of a certificate


TRAIN = TrainConfig(epochs=2, batch_size=10, device="cpu", checkpoint_every=0, progress=False)
EVIDENCE = EvidenceConfig(
    method="iwae", num_particles=50, rows_per_piece=2, local_steps=5, num_simulated=4,
    annealing=Annealing(num_chains=2, num_temperatures=2, num_leapfrog=1),
)  # fmt: skip


def compare(run: Path | None = None, *, method="iwae", train=TRAIN, **options):
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    story = load_story("factor_analysis", {"x": x}, latent_dim=2)
    guides = {n: ppvae.guides.build(n.partition(":")[0], story, x, hidden=(4,)) for n in NAMES}
    given = {"rows": 5, "train": train, "evidence": EVIDENCE.replace(method=method), **options}
    return ppvae.compare(story, guides, x, val=x[:10], run_dir=run, **given)


def told(league):
    """Tensors of a league by name, and what else it says but for seconds."""
    tensors = {}
    for name, found in league.gaps.items():
        estimates = {k: getattr(found, k) for k in ("log_evidence", "elbo_local", "elbo")}
        if found.certificate is not None:
            upper = found.certificate.upper.value  # of unknown error
            estimates |= {"lower": found.certificate.lower, "upper": ppvae.Estimate.exact(upper)}
        for kind, estimate in estimates.items():
            tensors |= estimate.to_named(f"{name} {kind}")
        for module in (league.stories[name], league.guides[name]):
            tensors |= {f"{name} {type(module)} {k}": v for k, v in module.state_dict().items()}
        tensors[f"{name} khat"] = found.khat
    records = [
        {k: v for k, v in record.items() if k not in CLOCK}
        for history in league.histories.values()
        for record in history.records
    ]
    table = league.to_pandas().drop(columns="seconds").to_csv()
    return tensors, (records, table, league.settings)


def same(one, two) -> bool:
    (these, said), (those, also) = told(one), told(two)
    return (
        these.keys() == those.keys()
        and all(torch.equal(these[k], those[k]) for k in these)
        and said == also
    )


class StoppedError(Exception):
    pass


def stop():
    raise StoppedError


class Count:
    """Counts steps of training and pieces of measurement, and acts when one of them is about to be
    made or kept.
    """

    def __init__(self, monkeypatch, at=None, action=stop):
        self.number, self.at, self.action = 0, at, action
        for owner, name in ((Trainer, "_run_step"), (ResultsFile, "write")):
            monkeypatch.setattr(owner, name, self.counting(getattr(owner, name)))

    def counting(self, plain):
        def one(*arguments):
            if self.number == self.at:
                self.action()
            self.number += 1
            return plain(*arguments)

        return one


@pytest.fixture(scope="module")
def undisturbed():
    """Decoder -> the league of a comparison in memory, once it is asked for."""
    return {}


SHARED, OWN, ANNEALED = ("shared", "iwae"), ("own", "iwae"), ("shared", "ais")
TOTALS = {SHARED: STEPS + PIECES, OWN: STEPS - 6 + PIECES, ANNEALED: STEPS + PIECES + SIMULATED}
STOPS = [(SHARED, at) for at in random.Random(0).sample(range(TOTALS[SHARED]), 5)]
STOPS += [(OWN, 8), (OWN, 15), (ANNEALED, 25)]


@pytest.mark.parametrize(("kind", "at"), STOPS)
def test_a_comparison_stopped_anywhere_goes_on_bit_for_bit_and_does_nothing_twice(
    tmp_path, monkeypatch, undisturbed, kind, at
):
    options = dict(zip(("decoder", "method"), kind, strict=True))
    if kind not in undisturbed:
        undisturbed[kind] = compare(**options)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        Count(patch, at)
        compare(tmp_path / "run", **options)
    count = Count(monkeypatch)
    league = compare(tmp_path / "run", resume=True, **options)
    assert same(undisturbed[kind], league)
    assert count.number == TOTALS[kind] - at
    assert same(league, compare(tmp_path / "run", resume=True, **options))
    assert count.number == TOTALS[kind] - at
    assert not list((tmp_path / "run").rglob(".writing-*"))


def test_a_full_disk_leaves_what_is_done_and_the_comparison_goes_on(tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = compare()
    for at in (10, 21):  # in a training, in a measurement
        run = tmp_path / str(at)
        with monkeypatch.context() as patch, pytest.raises(OSError):
            Count(patch, at, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard)))
            try:
                compare(run)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert same(whole, compare(run, resume=True))


def test_another_comparison_is_refused_and_told_what_changed(tmp_path):
    run = tmp_path / "run"
    compare(run)
    for options, told in (
        ({"train": TRAIN.replace(lr=0.1)}, "lr 0.001 -> 0.1"),
        ({"train": TRAIN.replace(epochs=3)}, "epochs 2 -> 3"),
        ({"method": "ais"}, "evidence.method 'iwae' -> 'ais'"),
        ({"decoder": "own"}, "decoder 'shared' -> 'own'"),
        ({"rows": 4}, "rows 5 -> 4"),
    ):
        with pytest.raises(ValueError, match=f"settings with which the run began, got .*{told}"):
            compare(run, resume=True, **options)
    with pytest.raises(ValueError, match="expected an empty or new run folder"):
        compare(run)
    with pytest.raises(ValueError, match="folder of a comparison to go on from, got run_dir="):
        compare(tmp_path / "absent", resume=True)
    with locked(run), pytest.raises(ValueError, match="no other process uses"):
        compare(run, resume=True)


def test_names_of_guides_become_names_of_folders_each_once():
    names = [
        "story",
        "semi_amortized:family=iaf",
        "A",
        "a",
        "..",
        "x/y",
        "x:y",
        "é" * 300,
        "g" * 300,
    ]
    safe = safe_names(names)
    assert safe[:4] == ["story", "semi_amortized-family-iaf", "A", "a-2"]
    assert safe[5:7] == ["x-y", "x-y-2"] and len(set(safe)) == len(names)
    assert all(0 < len(n) <= 105 and not set(n) & set("/:=. ") for n in safe)


@pytest.fixture
def listening():
    """The tests may run in a process that was started deaf to Ctrl-C, as background jobs are."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening", "in_a_new_folder")
@pytest.mark.parametrize(
    ("number", "code", "at"),
    [(signal.SIGINT, 130, 19), (signal.SIGTERM, 143, 7), (signal.SIGTERM, 143, 20)],
)
def test_signals_end_compare_with_their_codes_and_the_same_words_go_on(
    monkeypatch, capsys, number, code, at
):
    typed = "compare factor_analysis --data simulated:rows=50 --batch-size 10 --epochs 1 --rows 5"
    measuring = "--evidence.num-particles 50 --rows-per-piece 2 --local-steps 5"
    words = [
        *typed.split(),
        *measuring.split(),
        "--guides",
        "mean_field",
        "full_rank",
        "--set",
        "latent_dim=2",
        "--run-dir",
        "run",
    ]
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        Count(patch, at, lambda: signal.raise_signal(number))
        assert main(words) == code
    assert "go on with --resume --run-dir run" in capsys.readouterr().err
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not Path("run/league.csv").exists()
    assert main([*words, "--resume", "--set", "latent_dim=3"]) == 2
    assert "story_options {'latent_dim': 2} -> " in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    page = Path("run/report.html").read_text()
    assert "--run-dir run" in page and "--resume" not in page and Path("run/league.csv").exists()
