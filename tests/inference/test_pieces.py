r"""Pieces of rows: finished ones are kept, and any executor gives the same numbers, bit for bit."""

import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

import ppvae
from ppvae.config import EvidenceConfig
from ppvae.inference import Annealing

log_evidence_file = sys.modules["ppvae.inference.log_evidence"]
FEW = EvidenceConfig(
    method="best", num_particles=50, elbo_particles=20, local_steps=20, rows_per_piece=4,
    num_simulated=6, annealing=Annealing(num_chains=3, num_temperatures=4),
)  # fmt: skip


class Line(PyroModule):
    """A regression with a network; `code` 8 gives NaN, 9 ends a process that is not the first
    one.
    """

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 3).double()
        self.first_process = os.getpid()

    def forward(self, n, code):
        if os.getpid() != self.first_process and bool((code == 9).any()):
            os._exit(1)
        code = torch.where(code == 8, torch.nan, code)
        with pyro.plate("data", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z) + code.unsqueeze(-1), 0.5).to_event(1))


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    story = Line()
    code = torch.tensor([0.0, 1.0] * 5).double()
    x = ppvae.simulate(story, 10, seed=1, code=code)["x"]
    rows = {"x": x, "code": code}
    return story, ppvae.guides.build("mean_field", story, rows, hidden=(8,)), rows


@pytest.fixture(scope="module")
def here(pair):
    return ppvae.gaps(*pair, config=FEW)


def assert_same(one, two):
    for name in ("log_evidence", "elbo_local", "elbo"):
        for part in ("value", "std_error"):
            found, expected = (getattr(getattr(gaps, name), part) for gaps in (one, two))
            assert torch.equal(found, expected), (name, part)
    assert torch.equal(one.khat, two.khat) and one.local_steps == two.local_steps
    assert torch.equal(one.certificate.lower.value, two.certificate.lower.value)
    assert torch.equal(one.certificate.upper.value, two.certificate.upper.value)


@pytest.mark.parametrize("kind", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_an_executor_gives_the_same_gaps_bit_for_bit(pair, here, kind):
    with kind(2) as executor:
        assert_same(ppvae.gaps(*pair, config=FEW, executor=executor), here)


class Job:
    """What a submitted job of submitit can do; it is no future."""

    def __init__(self, future):
        self.done, self.result = future.done, future.result
        self.exception, self.cancel = future.exception, future.cancel


class JobExecutor(ThreadPoolExecutor):
    def submit(self, *args):
        return Job(super().submit(*args))


def test_jobs_that_are_no_futures_are_polled(pair, here, monkeypatch):
    monkeypatch.setattr("ppvae.inference.executors.POLL_SECONDS", 0.01)
    assert_same(ppvae.gaps(*pair, config=FEW, executor=JobExecutor(1)), here)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_gaps_bit_for_bit(pair, here):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert_same(ppvae.gaps(*pair, config=FEW, executor=client.get_executor()), here)


def test_a_worker_that_dies_is_an_error_that_names_the_rows_and_loses_nothing(pair, tmp_path):
    story, guide, rows = pair
    rows = {"x": rows["x"], "code": torch.where(torch.arange(10) == 9, 9.0, 0.0).double()}
    file = tmp_path / "rows.safetensors"
    options = {"config": FEW.replace(num_simulated=0), "checkpoint": file}
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(ConnectionError, match=r"rows 8 to 9 are not done"),
    ):
        ppvae.gaps(story, guide, rows, executor=executor, **options)
    finished = []
    plain = log_evidence_file.measure_evidence
    with pytest.MonkeyPatch.context() as patch:
        gaps_file = sys.modules["ppvae.gaps"]
        patch.setattr(
            gaps_file, "measure_evidence", lambda *a, **k: (finished.append(a), plain(*a, **k))[1]
        )
        resumed = ppvae.gaps(story, guide, rows, **options)
    assert len(finished) == 2  # both methods of the last piece
    whole = ppvae.gaps(story, guide, rows, config=options["config"])
    assert torch.equal(resumed.log_evidence.value, whole.log_evidence.value)


def test_errors_of_a_worker_are_those_of_the_caller(pair):
    story, guide, rows = pair
    bad = {"x": rows["x"], "code": torch.where(torch.arange(10) == 6, 8.0, 0.0).double()}
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match=r"in rows \[6\]; cause.*NaN at site 'x'"),
    ):
        ppvae.log_evidence(story, bad, method="iwae", guide=guide, config=FEW, executor=executor)


def test_what_cannot_be_sent_to_workers_is_refused_with_a_way_out(pair):
    _, guide, rows = pair
    story = Line()
    story.lock = threading.Lock()
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match=r"can be pickled for executor=.*lock.*leave executor out"),
    ):
        ppvae.gaps(story, guide, rows, config=FEW, executor=executor)


@pytest.mark.parametrize("method", ["iwae", "ais"])
def test_a_stopped_measurement_goes_on_to_the_same_numbers(method, tmp_path, monkeypatch):
    story = exact.linear_gaussian(4, 2)
    rows = exact.rows_of(story, 10)
    guide = ppvae.guides.build("mean_field", story, rows, hidden=(8,))
    file = tmp_path / "rows.safetensors"
    options = {"method": method, "guide": guide, "config": FEW}
    whole = ppvae.log_evidence(story, rows, **options)

    finished, measure = [], log_evidence_file.measure_evidence

    def stop_at_the_third(*args):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(args)
        return measure(*args)

    monkeypatch.setattr(log_evidence_file, "measure_evidence", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        ppvae.log_evidence(story, rows, checkpoint=file, **options)
    monkeypatch.setattr(
        log_evidence_file, "measure_evidence", lambda *a: (finished.append(a), measure(*a))[1]
    )
    resumed = ppvae.log_evidence(story, rows, checkpoint=file, **options)
    assert len(finished) == 3  # two pieces before, the last one after
    assert torch.equal(resumed.value, whole.value)
    assert torch.equal(resumed.std_error, whole.std_error)
    again = ppvae.log_evidence(story, rows, checkpoint=file, **options)
    assert len(finished) == 3 and torch.equal(again.value, whole.value)
    for change in ({"seed": 1}, {"num_particles": 60}, {"rows_per_piece": 5}):
        with pytest.raises(ValueError, match="to hold results of these settings"):
            ppvae.log_evidence(story, rows, checkpoint=file, **options, **change)
    with pytest.raises(ValueError, match="to hold results of these settings"):
        ppvae.log_evidence(story, {"x": rows["x"] + 1}, checkpoint=file, **options)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="expected a checkpoint"):
        ppvae.log_evidence(story, rows, checkpoint=file, **options)
