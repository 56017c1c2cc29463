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


def checkpointed(tmp_path, epochs):
    """A run folder whose checkpoint of epoch e holds weights that are all e."""
    run = RunFolder.create(tmp_path / "run", {})
    module = layer()
    for epoch in epochs:
        for parameter in module.parameters():
            nn.init.constant_(parameter, epoch)
        run.checkpoints.save(epoch, {"story": module}, {"lr": 0.1, "steps": torch.tensor(epoch)})
    return run


# --- folder -----------------------------------------------------------------


def test_a_new_folder_holds_its_config_versions_and_time(tmp_path):
    run = RunFolder.create(tmp_path / "a" / "run", {"seed": 3, "guide": "iaf"})
    config = json.loads((run.path / "config.json").read_text())
    assert config == run.config
    assert config["seed"] == 3
    assert {"python", "torch", "pyro", "ppvae"} == set(config["versions"])
    assert config["created"].endswith("+00:00")


def test_an_empty_folder_may_become_a_run_folder(tmp_path):
    assert RunFolder.create(tmp_path, {}).path == tmp_path


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"expected an empty or new run folder.*notes\.txt.*resume"
    ):
        RunFolder.create(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_resuming_keeps_the_old_config(tmp_path):
    RunFolder.create(tmp_path / "run", {"seed": 1})
    assert RunFolder.create(tmp_path / "run", {"seed": 2}, resume=True).config["seed"] == 1


def test_resuming_where_nothing_is_starts_a_run(tmp_path):
    assert RunFolder.create(tmp_path / "run", {"seed": 2}, resume=True).config["seed"] == 2


def test_resuming_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="expected the config of a run"):
        RunFolder.create(tmp_path, {}, resume=True)


@pytest.mark.parametrize("was", [{}, {"format": 1, "versions": {"ppvae": "0.1"}}, {"format": 3}])
def test_a_folder_of_another_format_is_refused(tmp_path, was):
    (tmp_path / "config.json").write_text(json.dumps(was))
    with pytest.raises(
        ValueError, match=r"run folder of format 2, got .* of format (1|3), which another"
    ):
        RunFolder.create(tmp_path, {}, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_kill_leaves_before_the_config_is_no_run_yet(tmp_path, resume):
    (tmp_path / ".writing-abc").write_text('{"seed"')
    (tmp_path / ".lock").write_text("7 on here")
    assert RunFolder.create(tmp_path, {"seed": 2}, resume=resume).config["seed"] == 2
    assert RunFolder.create(tmp_path, {}, resume=True).config["seed"] == 2


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="expected a folder for the run, got the file"):
        RunFolder.create(tmp_path / "run", {})


def test_a_config_that_is_not_json_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ValueError, match="that JSON holds"):
        RunFolder.create(tmp_path / "run", {"story": layer()})
    assert not (tmp_path / "run").exists()


# --- metrics ----------------------------------------------------------------


def test_metrics_come_back_in_order_and_a_cut_line_is_left_out_with_a_warning(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    assert run.metrics() == []
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "elbo": -1.5 * epoch})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "el')
    with pytest.warns(UserWarning, match="line 4 is cut short"):
        assert [r["epoch"] for r in run.metrics()] == [1, 2, 3]


def test_a_resumed_run_forgets_later_epochs(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch})
    run.drop_metrics_after(2)
    run.append_metrics({"epoch": 3, "again": True})
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3, "again": True}]


# --- checkpoints ------------------------------------------------------------


def test_the_last_two_checkpoints_are_kept(tmp_path):
    run = checkpointed(tmp_path, (1, 2, 10))
    names = sorted(p.name for p in (run.path / "checkpoints").iterdir())
    assert names == ["epoch_000002", "epoch_000010"]


def test_a_checkpoint_brings_weights_and_state_back(tmp_path):
    run, module = checkpointed(tmp_path, (1, 2)), layer()
    state = run.checkpoints.load({"story": module})
    assert state["epoch"] == 2 and state["lr"] == 0.1 and state["steps"] == 2
    assert bool((module.weight == 2).all())


def test_an_optimiser_goes_through_a_checkpoint_bit_for_bit(tmp_path):
    run, module = RunFolder.create(tmp_path / "run", {}), layer()
    optimiser = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    run.checkpoints.save(1, {"guide": module}, {"optimiser": optimiser.state_dict()})
    other = torch.optim.Adam(layer(1).parameters())
    other.load_state_dict(run.checkpoints.load({"guide": module})["optimiser"])
    saved, loaded = optimiser.state_dict()["state"], other.state_dict()["state"]
    assert all(torch.equal(saved[i][k], loaded[i][k]) for i in saved for k in saved[i])


@pytest.mark.parametrize("file", ["story.safetensors", "state.pt"])
@pytest.mark.parametrize("fault", ["cut", "absent"])
def test_a_corrupt_newest_checkpoint_falls_back_to_the_one_before(tmp_path, file, fault):
    run, module = checkpointed(tmp_path, (1, 2)), layer()
    damaged = run.path / "checkpoints" / "epoch_000002" / file
    content = damaged.read_bytes()
    damaged.unlink()
    if fault == "cut":
        damaged.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="epoch_000002 cannot be read"):
        state = run.checkpoints.load({"story": module})
    assert state["epoch"] == 1
    assert bool((module.weight == 1).all())


def test_a_pickle_in_the_state_is_not_run(tmp_path):
    run = checkpointed(tmp_path, (1, 2))
    torch.save({"code": nn.Linear(1, 1)}, run.path / "checkpoints" / "epoch_000002" / "state.pt")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert run.checkpoints.load({"story": layer()})["epoch"] == 1


@pytest.mark.filterwarnings("ignore:checkpoint")
def test_checkpoints_that_are_all_corrupt_are_an_error(tmp_path):
    run = checkpointed(tmp_path, (1, 2))
    for file in run.path.glob("checkpoints/*/state.pt"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="expected a readable checkpoint"):
        run.checkpoints.load({"story": layer()})


def test_without_any_checkpoint_there_is_nothing_to_load(tmp_path):
    assert RunFolder.create(tmp_path / "run", {}).checkpoints.load({"story": layer()}) is None


def test_what_a_crash_left_half_written_is_not_a_checkpoint(tmp_path):
    run = checkpointed(tmp_path, (1,))
    (run.path / "checkpoints" / ".writing-abc").mkdir()
    assert run.checkpoints.load({"story": layer()})["epoch"] == 1
    run.checkpoints.save(2, {"story": layer()}, {})
    assert not list((run.path / "checkpoints").glob(".writing-*"))


def test_a_checkpoint_of_another_shape_is_an_error_not_a_fallback(tmp_path):
    run, wide = checkpointed(tmp_path, (1, 2)), layer(wide=5)
    before = wide.weight.clone()
    with pytest.raises(ValueError, match=r"tensor 'weight': expected float32 of shape \(2, 5\)"):
        run.checkpoints.load({"story": wide})
    assert torch.equal(before, wide.weight)


def test_state_that_only_pickle_could_hold_is_refused_by_its_place(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
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


def test_a_missing_file_is_named(tmp_path):
    save(tmp_path, layer())
    with pytest.raises(ValueError, match=r"guide\.safetensors, got no such file"):
        load(tmp_path, layer(), layer())


def test_a_damaged_file_is_an_error(tmp_path):
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
