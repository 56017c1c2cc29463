r"""`conv_vae` on pictures with channels: small files in the layout of the real sets, and
Fashion-MNIST itself."""

import math
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import ppvae
from ppvae.cli import main
from ppvae.data import load_request, parse_request
from ppvae.stories import load as load_story
from ppvae.story import seeded

pytestmark = pytest.mark.usefixtures("in_a_new_folder")

TINY = ["--epochs", "1", "--device", "cpu", "--no-progress", "--run-dir", "run"]
REAL = Path(os.environ.get("PPVAE_DATA", "nowhere"))


def cifar10(root: Path) -> None:
    """5,050 and 20 pictures as CIFAR-10's pickled batches."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, count in (*((f"data_batch_{i}", 1010) for i in range(1, 6)), ("test_batch", 20)):
        pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0] * count}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["thing"]}))


def celeba(root: Path) -> None:
    """Six faces, two in each part, as CelebA's folder of JPEG files and its lists."""
    from PIL import Image

    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 7)]
    generator = np.random.default_rng(0)
    for name in names:
        pixels = generator.integers(0, 256, (218, 178, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name)
    plain = {"list_eval_partition": [0, 0, 1, 1, 2, 2], "identity_CelebA": [1] * 6}
    for stem, values in plain.items():
        lines = [f"{n} {v}\n" for n, v in zip(names, values, strict=True)]
        (folder / f"{stem}.txt").write_text("".join(lines))
    for stem, columns in (
        ("list_bbox_celeba", "image_id x_1 y_1 width height"),
        ("list_landmarks_align_celeba", "a b"),
        ("list_attr_celeba", "Young Smiling"),
    ):
        width = len(columns.removeprefix("image_id ").split())
        lines = [f"{n} {' '.join(['1'] * width)}\n" for n in names]
        (folder / f"{stem}.txt").write_text(f"6\n{columns}\n{''.join(lines)}")


@pytest.mark.parametrize(
    ("make", "data", "shape"),
    [(cifar10, "cifar10", (3, 32, 32)), (celeba, "celeba", (3, 64, 64))],
)
def test_pictures_in_the_layout_of_the_real_files_are_told(
    make, data, shape, tmp_path, monkeypatch, capsys
):
    sets = pytest.importorskip("torchvision.datasets")
    make(tmp_path / "root")
    # These are not the real files: their checksums are let pass.
    for module in (sets.cifar, sets.celeba):
        monkeypatch.setattr(module, "check_integrity", lambda *_, **__: True)
    monkeypatch.setattr(sets.CelebA, "_check_integrity", lambda _: True)
    asked = f"{data}:images=true:rows=8"
    rows = load_request(parse_request(asked), "train", root=tmp_path / "root")
    assert rows.tensors["x"].shape[1:] == shape
    typed = ["fit", "conv_vae", "--data", asked, "--data-root", str(tmp_path / "root")]
    assert main([*typed, *TINY]) == 0
    out = capsys.readouterr().out
    bits = float(re.search(r"at most ([\d.]+) bits per dimension", out)[1])
    nats = float(re.search(r"ELBO (\S+) ±", out)[1].replace("−", "-"))
    assert bits == pytest.approx(-nats / rows.tensors["x"][0].numel() / math.log(2), abs=1e-3)
    assert 7 < bits < 9  # noise of bytes
    assert main(["generate", "run", "--n", "4", "--out", "new.png"]) == 0
    assert Path("new.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.skipif(
    not (REAL / "FashionMNIST").is_dir(), reason="needs FashionMNIST under PPVAE_DATA"
)
def test_clothes_take_fewer_bits_than_even_levels_after_a_little_training():
    asked = parse_request("fashion_mnist:images=true:binarize=none:rows=400")
    train, test = load_request(asked, "train"), load_request(asked, "test").head(50)
    with seeded(0):
        story = load_story("conv_vae", train.head(100).batch())
        guide = ppvae.guides.build("mean_field", story, train)
    assert story.levels == 256
    ppvae.fit(story, guide, train, epochs=4, batch_size=50, lr=3e-3)
    elbo = ppvae.elbo(story, guide, test, num_particles=10).value.mean()
    bits = float(story.bits_per_dimension(torch.as_tensor(elbo)))
    assert 2.0 < bits < 8.0
