r"""Files damaged by chance or made to harm: one clear error each, no code run, bounded memory."""

import collections
import io
import os
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from ppvae.data import load, mapped

SEED, ROUNDS = 0, 300
VALUES = np.random.default_rng(SEED).normal(size=(12, 3)).round(3)
SUFFIXES = pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".pt", ".parquet"])


def saved(save: object, *values: object, **options: object) -> bytes:
    stream = io.BytesIO()
    save(stream, *values, **options)
    return stream.getvalue()


def zipped(member: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", member)
    return stream.getvalue()


def torch_saved(value: object) -> bytes:
    return saved(lambda stream: torch.save(value, stream))


def sound(suffix: str) -> bytes:
    """A file of the format that the ending names."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        return pandas.DataFrame(VALUES, columns=list("abc")).to_parquet()
    return {
        ".npy": lambda: saved(np.save, VALUES),
        ".npz": lambda: saved(np.savez_compressed, x=VALUES, t=np.arange(12)),
        ".pt": lambda: torch_saved({"x": torch.from_numpy(VALUES), "t": torch.arange(12)}),
        ".csv": lambda: pandas.DataFrame(VALUES).to_csv(index=False, header=list("abc")).encode(),
    }[suffix]()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, a piece cut out, doubled or put at the end of another cut."""
    made = bytearray(content)
    for _ in range(draw.randrange(1, 12)):
        # Headers decide most, so that they are hit most.
        reach = draw.choice([len(made), min(len(made), 130)])
        made[draw.randrange(reach)] = draw.randrange(256)
    if draw.random() < 0.4:
        start, stop = sorted(draw.randrange(len(made)) for _ in range(2))
        made[start:stop] = draw.choice([b"", made[start:stop] * 2, made[-7:]])
    return bytes(made[: draw.choice([len(made), draw.randrange(1, len(made) + 1)])]) or b"\0"


def is_refused(path: Path, take: object = load) -> bool:
    """Whether it is refused, with one error in the library's own words; else it must be rows."""
    try:
        rows = take(path, split="all")
    except ValueError as error:
        assert str(error).startswith("expected"), error
        return True
    assert len(rows) >= 1
    return False


@pytest.mark.slow
@SUFFIXES
@pytest.mark.filterwarnings("ignore")
def test_a_file_damaged_at_random_is_rows_or_one_clear_error(tmp_path, suffix):
    path, draw, content = tmp_path / f"a{suffix}", random.Random(SEED), sound(suffix)
    path.write_bytes(content)
    assert not is_refused(path)
    refusals = 0
    for _ in range(ROUNDS):
        path.write_bytes(damaged(content, draw))
        refusals += is_refused(path)
        if suffix == ".npy":
            is_refused(path, mapped)
    assert refusals > ROUNDS / 2


class Harm:
    def __reduce__(self):
        return (open, ("ran", "w"))


@SUFFIXES
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_in_disguise_is_refused_and_runs_nothing(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a{suffix}"
    objects = saved(np.save, np.array([Harm()], dtype=object), allow_pickle=True)
    contents = [pickle.dumps(Harm(), protocol) for protocol in (0, pickle.DEFAULT_PROTOCOL)]
    archives = [zipped(contents[1]), zipped(objects), torch_saved(Harm())]
    for content in (*contents, objects, *archives):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="^expected"):
            load(path)
    if suffix in (".npy", ".npz"):
        path.write_bytes(objects if suffix == ".npy" else zipped(objects))
        with pytest.raises(
            ValueError, match=r"without pickled objects, in .* shape \(1,\) of object"
        ):
            load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch_saved({"x": torch.ones(2), "n": 3}), "by name, .*a.pt, got: int at 'n'"),
        (torch_saved([torch.ones(2)]), "got: list at 'x'"),
        (torch_saved({"x": collections.UserDict()}), "a.pt, got: "),
        (pickle.dumps(os.getcwd, protocol=2), "a.pt, got: "),
        (b"no tensors", "a.pt, got: "),
    ],
    ids=range(5),
)
def test_a_pt_file_of_other_things_is_refused(tmp_path, content, message):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.pt")


def header(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        header("(" * 4000 + "1" + ")" * 4000),
        header("-" * 9000 + "1"),
        header("(" + "1," * 100 + ")") + bytes(8),
        header("(0, 1152921504606846976, 1152921504606846976)"),
        header("(2,)", "[('a', '<f8')]") + bytes(16),
        header("(1,)", "'V2147483647'") + bytes(16),
        header("(True,)") + bytes(8),
        header("'ab'"),
        header("(1000000000000000, 1000000000000000)") + bytes(16),
        header("(3,)") + bytes(16),
        header("(1,)") + bytes(16),
        header("(-1, -2)") + bytes(16),
        header("(2,)").replace(b"}", b" ") + bytes(16),
        b"\x93NUMPY\x02\0\xff\xff\xff\xff{",
        b"\x93NUMPY\x09\0\0\0",
        b"no array",
        b"PK broken",
        zipped(b"")[-22:],
    ],
    ids=range(18),
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_header_made_to_harm_is_one_clear_error(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    (tmp_path / "a.npz").write_bytes(zipped(content))
    (tmp_path / "b.npz").write_bytes(content)
    for take, name in ((load, "a.npy"), (mapped, "a.npy"), (load, "a.npz"), (load, "b.npz")):
        with pytest.raises(ValueError, match="^expected"):
            take(tmp_path / name, split="all")


def test_an_archive_without_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"at least one named tensor .*a\.npz"):
        load(tmp_path / "a.npz")


@pytest.mark.slow
def test_a_table_of_a_repeated_number_may_not_mean_gigabytes(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    for rows in (2**20, 2**25):
        column = arrow.array(np.zeros(rows, np.int8))
        parquet.write_table(arrow.table({str(i): column for i in range(5)}), path)
        if rows == 2**20:
            assert len(load(path, split="all")) == rows
        else:
            with pytest.raises(ValueError, match="unpack to 1342177280, over 100 times as many"):
                load(path, split="all")


def bombs(folder: Path) -> None:
    """Small files that mean hundreds of megabytes, or many gigabytes."""
    zeros = bytes(2**24)
    for name, declared, times in (("lies", "(2,)", 20), ("swells", f"({80 * 2**21},)", 80)):
        with (
            zipfile.ZipFile(folder / f"{name}.npz", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("x.npy", "w", force_zip64=True) as member,
        ):
            member.write(header(declared))
            for _ in range(times):
                member.write(zeros)
    torch.save({"x": torch.zeros(1).expand(2**40)}, folder / "expanded.pt")
    torch.save({"x": torch.empty(2**40, 3, device="meta")}, folder / "meta.pt")
    with (
        zipfile.ZipFile(io.BytesIO(torch_saved({"x": torch.zeros(2**10)}))) as stored,
        zipfile.ZipFile(folder / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for info in stored.infolist():
            with archive.open(info.filename, "w", force_zip64=True) as member:
                for _ in range(20 if "/data/" in info.filename else 1):
                    member.write(zeros if "/data/" in info.filename else stored.read(info))
    with (folder / "sparse.npy").open("wb") as file:
        file.write(header(f"({2**37},)"))
        file.truncate(file.tell() + 2**40)
    (folder / "bytes.pt").write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.")


LOADING = """
import re, sys
from pathlib import Path
from ppvae.data import load

def held():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))

start = held()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load(path, split="all")
        print(path.name, "was loaded")
    except ValueError as error:
        print(path.name, "refused" if str(error).startswith("expected") else error)
    print(path.name, "MB", (held() - start) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_are_refused_without_the_memory_that_they_mean(tmp_path):
    bombs(tmp_path)
    assert sum(p.stat().st_blocks * 512 for p in tmp_path.iterdir()) < 64 * 2**20
    command = [sys.executable, "-c", LOADING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    print(done.stdout, done.stderr[-2000:])
    lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == 14
    assert all(said == "refused" for _, said in lines[::2])
    assert all(int(megabytes) < 200 for _, megabytes in lines[1::2])
