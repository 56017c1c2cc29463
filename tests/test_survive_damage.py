r"""A run folder whose files were damaged by chance or by intent: the older checkpoint, or one clear
error.
"""

import pickle
import random
import warnings

import pytest
import torch
from torch import nn

from ppvae.storage.run_folder import RunFolder


def folder_of_two(place):
    run, module = RunFolder.create(place, {"seed": 0}), nn.Linear(3, 2)
    for epoch in (1, 2):
        nn.init.constant_(module.weight, epoch)
        run.checkpoints.save(epoch, {"story": module}, {"noise": torch.get_rng_state()})
        run.append_metrics({"epoch": epoch})
    return run


@pytest.mark.parametrize("name", ["state.pt", "story.safetensors"])
def test_random_damage_never_breaks_the_loader_but_falls_back(tmp_path, name):
    run, module, draw = folder_of_two(tmp_path / "run"), nn.Linear(3, 2), random.Random(0)
    file = run.path / "checkpoints" / "epoch_000002" / name
    whole = file.read_bytes()
    epochs = set()
    for _ in range(150):
        length = draw.choice([len(whole), draw.randrange(1, len(whole))])
        content = bytearray(whole[:length])
        for _ in range(draw.randrange(1, 20)):
            content[draw.randrange(length)] = draw.randrange(256)
        file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                epochs.add(run.checkpoints.load({"story": module})["epoch"])
            except ValueError as error:
                assert "expected" in str(error)
    assert 1 in epochs


class Runs:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_a_pickle_disguised_as_state_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, module = folder_of_two(tmp_path / "run"), nn.Linear(3, 2)
    file = run.path / "checkpoints" / "epoch_000002" / "state.pt"
    for write in (lambda: file.write_bytes(pickle.dumps(Runs())), lambda: torch.save(Runs(), file)):
        write()
        with pytest.warns(UserWarning, match="falling back"):
            assert run.checkpoints.load({"story": module})["epoch"] == 1
    assert not (tmp_path / "ran").exists()


def test_a_huge_declared_tensor_is_refused_without_the_memory_for_it(tmp_path):
    run = folder_of_two(tmp_path / "run")
    head = b'{"weight":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    for content in (len(head).to_bytes(8, "little") + head, b"\xff" * 8 + head):
        file = run.path / "checkpoints" / "epoch_000002" / "story.safetensors"
        file.write_bytes(content)
        with pytest.warns(UserWarning, match="falling back"):
            assert run.checkpoints.load({"story": nn.Linear(3, 2)})["epoch"] == 1


@pytest.mark.parametrize("content", [b"[1]", b"[" * 100_000, b"\xff\xfe", b"", b"3"])
def test_a_damaged_config_is_one_error_and_damaged_metrics_are_left_out(tmp_path, content):
    run = folder_of_two(tmp_path / "run")
    (run.path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n' + content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run.metrics() == [{"epoch": 1}]
    (run.path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="expected the config of a run"):
        RunFolder.create(run.path, {}, resume=True)
