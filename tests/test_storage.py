r"""A run folder survives crashes and never loads what does not fit."""

import json

import pytest
import torch
from torch import nn

from ppvae.storage.run_folder import RunFolder
from ppvae.storage.weights import load, save


def layer(seed=0, wide=3):
    torch.manual_seed(seed)
    return nn.Linear(wide, 2)


def weighing(number):
    """A layer whose weights are all one number."""
    module = layer()
    for parameter in module.parameters():
        nn.init.constant_(parameter, number)
    return module


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {"seed": 1})


@pytest.fixture
def checkpointed(run):
    """Checkpoints of two epochs, whose weights are the epoch's number."""
    for epoch in (1, 2):
        state = {"lr": 0.1, "steps": torch.tensor(epoch)}
        run.checkpoints.save(epoch, {"story": weighing(epoch)}, state)
    return run


# --- folder -----------------------------------------------------------------


def test_a_new_folder_holds_its_config_versions_and_time(tmp_path):
    run = RunFolder.create(tmp_path / "a" / "run", {"seed": 3, "guide": "iaf"})
    config = json.loads((run.path / "config.json").read_text())
    assert config == run.config
    assert config["seed"] == 3 and config["format"] == 2
    assert {"python", "torch", "pyro", "ppvae"} == set(config["versions"])
    assert config["created"].endswith("+00:00")


def test_resuming_keeps_the_old_config_and_starts_a_run_where_nothing_is(run, tmp_path):
    assert RunFolder.create(run.path, {"seed": 2}, resume=True).config["seed"] == 1
    assert RunFolder.create(tmp_path / "new", {"seed": 2}, resume=True).config["seed"] == 2


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_kill_leaves_before_the_config_is_no_run_yet(tmp_path, resume):
    (tmp_path / ".writing-abc").write_text('{"seed"')
    (tmp_path / ".lock").write_text("7 on here")
    assert RunFolder.create(tmp_path, {"seed": 2}, resume=resume).config["seed"] == 2
    assert RunFolder.create(tmp_path, {}, resume=True).config["seed"] == 2


V1 = '{"versions": {"ppvae": "0.1"}}'


@pytest.mark.parametrize(
    ("name", "content", "resume", "message"),
    [
        ("notes.txt", "mine", False, r"an empty or new run folder.*notes\.txt.*resume"),
        ("notes.txt", "mine", True, "expected the config of a run"),
        ("config.json", V1, True, r"format 2, got .* of format 1, .* ppvae wrote \(0"),
        ("config.json", '{"format": 3}', True, "got .* of format 3, which another version of"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_and_left_alone(
    tmp_path, name, content, resume, message
):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        RunFolder.create(tmp_path, {}, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_in_place_of_the_folder_and_a_config_that_is_not_json_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="expected a folder for the run, got the file"):
        RunFolder.create(tmp_path / "file", {})
    with pytest.raises(ValueError, match="that JSON holds"):
        RunFolder.create(tmp_path / "run", {"story": layer()})
    assert not (tmp_path / "run").exists()


# --- metrics ----------------------------------------------------------------


def test_metrics_come_back_in_order_and_a_cut_line_is_left_out_with_a_warning(run):
    assert run.metrics() == []
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "el')
    with pytest.warns(UserWarning, match="line 4 is cut short"):
        assert [r["epoch"] for r in run.metrics()] == [1, 2, 3]


def test_a_resumed_run_forgets_later_epochs(run):
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch})
    run.drop_metrics_after(2)
    run.append_metrics({"epoch": 3, "again": True})
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "again": True}]


# --- checkpoints ------------------------------------------------------------


def test_the_last_two_checkpoints_are_kept(checkpointed):
    checkpointed.checkpoints.save(10, {}, {})
    names = sorted(p.name for p in checkpointed.checkpoints.path.iterdir())
    assert names == ["epoch_000002", "epoch_000010"]


def test_a_checkpoint_brings_weights_and_state_back(checkpointed):
    module = layer()
    state = checkpointed.checkpoints.load({"story": module})
    assert state["epoch"] == 2 and state["lr"] == 0.1 and state["steps"] == 2
    assert bool((module.weight == 2).all())


def test_an_optimizer_goes_through_a_checkpoint_bit_for_bit(run):
    module = layer()
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    run.checkpoints.save(1, {"guide": module}, {"optimizer": optimizer.state_dict()})
    other = torch.optim.Adam(layer(1).parameters())
    other.load_state_dict(run.checkpoints.load({"guide": module})["optimizer"])
    saved, loaded = optimizer.state_dict()["state"], other.state_dict()["state"]
    assert all(torch.equal(saved[i][k], loaded[i][k]) for i in saved for k in saved[i])


@pytest.mark.parametrize("file", ["story.safetensors", "state.pt"])
@pytest.mark.parametrize("fault", ["cut", "absent", "pickled"])
def test_a_corrupt_newest_checkpoint_falls_back_to_the_one_before(checkpointed, file, fault):
    module = layer()
    damaged = checkpointed.checkpoints.path / "epoch_000002" / file
    content = damaged.read_bytes()
    damaged.unlink()
    if fault == "cut":
        damaged.write_bytes(content[: len(content) // 2])
    if fault == "pickled":
        torch.save({"code": nn.Linear(1, 1)}, damaged)
    with pytest.warns(UserWarning, match="epoch_000002 cannot be read"):
        state = checkpointed.checkpoints.load({"story": module})
    assert state["epoch"] == 1
    assert bool((module.weight == 1).all())


@pytest.mark.filterwarnings("ignore:checkpoint")
def test_checkpoints_that_are_all_corrupt_are_an_error_and_none_is_nothing(checkpointed, tmp_path):
    for file in checkpointed.path.glob("checkpoints/*/state.pt"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        checkpointed.checkpoints.load({"story": layer()})
    empty = RunFolder.create(tmp_path / "empty", {})
    assert empty.checkpoints.load({"story": layer()}) is None


def test_what_a_crash_left_half_written_is_not_a_checkpoint(checkpointed):
    (checkpointed.checkpoints.path / ".writing-abc").mkdir()
    assert checkpointed.checkpoints.load({"story": layer()})["epoch"] == 2
    checkpointed.checkpoints.save(3, {"story": layer()}, {})
    assert not list(checkpointed.checkpoints.path.glob(".writing-*"))


def test_a_checkpoint_of_another_shape_is_an_error_not_a_fallback(checkpointed):
    wide = layer(wide=5)
    before = wide.weight.clone()
    with pytest.raises(ValueError, match=r"tensor 'weight': expected float32 of shape \(2, 5\)"):
        checkpointed.checkpoints.load({"story": wide})
    assert torch.equal(before, wide.weight)


def test_state_that_only_pickle_could_hold_is_refused_by_its_place(run):
    with pytest.raises(ValueError, match=r"got Linear at state\['a'\]\[1\]"):
        run.checkpoints.save(1, {}, {"a": [1, layer()]})


# --- weights ----------------------------------------------------------------


def test_saved_weights_come_back_exactly(tmp_path):
    story, guide = layer(0).double(), layer(1)
    save(tmp_path / "weights", story, guide)
    other_story, other_guide = layer(2).double(), layer(3)
    load(tmp_path / "weights", other_story, other_guide)
    assert torch.equal(story.weight, other_story.weight)
    assert torch.equal(guide.weight, other_guide.weight)
    files = sorted(p.name for p in (tmp_path / "weights").iterdir())
    assert files == ["guide.safetensors", "story.safetensors"]


def test_tensors_that_share_memory_are_saved(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    tied.register_buffer("view", tied[0].weight.detach().T)
    save(tmp_path, tied)
    before = tied[0].weight.detach().clone()
    nn.init.zeros_(tied[0].weight)
    load(tmp_path, tied)
    assert torch.equal(tied[0].weight, before)
    assert torch.equal(tied.view, before.T)


def test_a_missing_and_a_damaged_file_are_named(tmp_path):
    save(tmp_path, layer())
    with pytest.raises(ValueError, match=r"guide\.safetensors, got no such file"):
        load(tmp_path, layer(), layer())
    (tmp_path / "story.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        load(tmp_path, layer())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(5, 2), r"tensor 'weight': expected float32 of shape \(2, 5\).*\(2, 3\)"),
        (nn.Linear(3, 2).double(), r"tensor 'bias|weight': expected float64"),
        (nn.Linear(3, 2, bias=False), r"also \['bias'\]"),
        (nn.BatchNorm1d(2), r"none for \['num_batches_tracked', 'running_mean', 'running_var'\]"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_touch_nothing(tmp_path, other, message):
    save(tmp_path, layer(), layer())
    story = layer(7)
    before = story.weight.clone()
    with pytest.raises(ValueError, match=message):
        load(tmp_path, story, other)
    assert torch.equal(before, story.weight)
