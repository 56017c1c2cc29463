r"""Files that were damaged by chance or made to harm: one clear error each, no code run, bounded memory."""

import io
import pickle
import random
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ppvae.data import load, mapped

pytestmark = pytest.mark.slow

SEED, ROUNDS = 0, 300
VALUES = np.random.default_rng(SEED).normal(size=(12, 3)).round(3)


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def whole(path: Path) -> bytes:
    """A sound file of the format that the ending names."""
    if path.suffix == ".npy":
        np.save(path, VALUES)
    elif path.suffix == ".npz":
        np.savez_compressed(path, x=VALUES, t=np.arange(12))
    elif path.suffix == ".pt":
        torch.save({"x": torch.from_numpy(VALUES), "t": torch.arange(12)}, path)
    elif path.suffix == ".csv":
        lines = ["a,b,c", *(",".join(map(str, row)) for row in VALUES)]
        path.write_text("\n".join(lines))
    else:
        pytest.importorskip("pyarrow")
        import pandas

        pandas.DataFrame(VALUES, columns=list("abc")).to_parquet(path)
    return path.read_bytes()


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


def refused_or_rows(path: Path, take: object = load) -> bool:
    """Whether it was refused, with one error in the library's own words."""
    try:
        rows = take(path, split="all")
    except ValueError as error:
        assert str(error).startswith("expected"), error
        return True
    assert len(rows) >= 1
    return False


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".pt", ".parquet"])
@pytest.mark.filterwarnings("ignore")
def test_a_file_damaged_at_random_is_rows_or_one_clear_error(tmp_path, suffix):
    path, draw = tmp_path / f"a{suffix}", random.Random(SEED)
    sound = whole(path)
    assert not refused_or_rows(path)
    refusals = 0
    for _ in range(ROUNDS):
        path.write_bytes(damaged(sound, draw))
        refusals += refused_or_rows(path)
        if suffix == ".npy":
            refused_or_rows(path, mapped)
    assert refusals > ROUNDS / 2


class Harm:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".pt", ".parquet"])
def test_a_pickle_in_disguise_is_refused_and_runs_nothing(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"a{suffix}"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("x.npy", pickle.dumps(Harm()))
    saved = io.BytesIO()
    torch.save(Harm(), saved)
    for content in (
        pickle.dumps(Harm()),
        pickle.dumps(Harm(), protocol=0),
        npy(np.array([Harm()], dtype=object)),
        archive.getvalue(),
        saved.getvalue(),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="^expected"):
            load(path)
    assert not (tmp_path / "ran").exists()


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
        b"\x93NUMPY\x02\0\xff\xff\xff\xff{",
        b"\x93NUMPY\x09\0\0\0",
    ],
    ids=range(10),
)
def test_a_header_made_to_harm_is_one_clear_error(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    for take in (load, mapped):
        with pytest.raises(ValueError, match="^expected"):
            take(path, split="all")


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
    torch.save({"x": torch.zeros(2**10)}, folder / "stored.pt")
    with (
        zipfile.ZipFile(folder / "stored.pt") as sound,
        zipfile.ZipFile(folder / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for info in sound.infolist():
            with archive.open(info.filename, "w", force_zip64=True) as member:
                content = sound.read(info)
                for _ in range(20 if "/data/" in info.filename else 1):
                    member.write(zeros if "/data/" in info.filename else content)
    (folder / "stored.pt").unlink()
    with (folder / "sparse.npy").open("wb") as file:
        file.write(header(f"({2**37},)"))
        file.truncate(file.tell() + 2**40)
    (folder / "bytes.pt").write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.")


LOADING = """
import re, resource, sys
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


def test_a_table_of_a_repeated_number_may_not_mean_gigabytes(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    for rows, message in ((2**20, None), (2**25, "unpacks to 100 times its size at most, got")):
        column = arrow.array(np.zeros(rows, np.int8))
        parquet.write_table(arrow.table({str(i): column for i in range(5)}), path)
        if message is None:
            assert len(load(path, split="all")) == rows
        else:
            with pytest.raises(ValueError, match=message):
                load(path, split="all")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_are_refused_without_the_memory_that_they_mean(tmp_path):
    bombs(tmp_path)
    assert sum(p.stat().st_blocks * 512 for p in tmp_path.iterdir()) < 64 * 2**20
    command = [sys.executable, "-c", textwrap.dedent(LOADING), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    print(done.stdout, done.stderr[-2000:])
    lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(lines) == 14
    assert all(said == "refused" for _, said in lines[::2])
    assert all(int(megabytes) < 200 for _, megabytes in lines[1::2])
