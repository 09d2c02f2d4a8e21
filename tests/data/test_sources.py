"""Each reader against an independent reading of the same files."""

import csv
import gzip
import importlib.util
import io
import struct
import sys
import tarfile

import numpy as np
import pytest

from kdrun.data.csv_integers import csv_integers
from kdrun.data.fetch import default_cache, find
from kdrun.domains.images.shipped.cifar import cifar10, cifar100
from kdrun.domains.images.shipped.digits import digits
from kdrun.domains.images.shipped.fashion_mnist import fashion_mnist
from kdrun.domains.images.shipped.idx import read_idx
from kdrun.domains.images.shipped.mnist_5k import mnist_5k
from kdrun.problems import UserError


def fetched(name):
    """The real thing where it is in the cache, else a skip that says what would bring it."""
    cache = default_cache()
    if not find(name).present(cache):
        pytest.skip(f"needs: kdrun fetch {name}")
    return cache


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    reference = load_digits()
    images = digits()
    assert images.x.shape == (1797, 1, 8, 8)
    counts = np.rint(images.x[:, 0].astype(float) * 16 / 255)
    assert np.array_equal(counts, reference.images)
    assert np.array_equal(images.y, reference.target)
    assert len(np.unique(images.x)) == 17  # one-to-one


def test_digits_do_not_import_scikit_learn():
    import subprocess

    code = "import sys, kdrun.domains.images.shipped.digits as d; d.digits(); print([m in sys.modules for m in ('sklearn', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"


def test_absent_scikit_learn_is_named(monkeypatch):
    monkeypatch.setattr("kdrun.data.folders.find_spec", lambda name: None)
    with pytest.raises(UserError, match="scikit-learn"):
        digits()


def test_mnist_5k_is_its_csv():
    cache = fetched("mnist_5k")
    images = mnist_5k(cache=cache)
    with open(find("mnist_5k").folder(cache) / "mnist_5k.csv", newline="") as file:
        rows = [[int(value) for value in row] for row in csv.reader(file)]
    table = np.array(rows)
    assert np.array_equal(images.x.reshape(5000, 784), table[:, :784])
    assert np.array_equal(images.y, table[:, 784])
    assert np.bincount(images.y).tolist() == [500] * 10


def test_fashion_mnist_is_its_idx_files():
    cache = fetched("fashion_mnist")
    images = fashion_mnist(cache=cache)
    folder = find("fashion_mnist").folder(cache)
    assert images.x.shape == (70000, 1, 28, 28)
    assert np.bincount(images.y[images.split == 0]).tolist() == [6000] * 10
    assert np.bincount(images.y[images.split == 2]).tolist() == [1000] * 10
    with open(folder / "t10k-images-idx3-ubyte", "rb") as file, open(folder / "t10k-labels-idx1-ubyte", "rb") as labels:
        assert struct.unpack(">IIII", file.read(16)) == (2051, 10000, 28, 28)
        assert struct.unpack(">II", labels.read(8)) == (2049, 10000)
        for position in range(3):
            assert images.x[60000 + position].tobytes() == file.read(784)
            assert images.y[60000 + position] == labels.read(1)[0]


def test_fashion_mnist_from_a_folder_gzipped_or_not(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 6), ("t10k", 4)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, count, 28, 28) + pixels.tobytes()
        )
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    plain = fashion_mnist(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = fashion_mnist(tmp_path)
    assert np.array_equal(plain.x, packed.x) and plain.source_hash == packed.source_hash
    assert plain.split.tolist() == [0] * 6 + [2] * 4
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UserError, match="t10k-labels"):
        fashion_mnist(tmp_path)


def test_absent_data_say_what_to_type(tmp_path):
    with pytest.raises(UserError) as caught:
        fashion_mnist(cache=tmp_path)
    assert caught.value.lines == ["data=fashion_mnist needs a data set that is not here yet: kdrun fetch fashion_mnist"]


@pytest.mark.parametrize(
    "content", [b"\x00\x00\x0d\x01" + b"\0" * 8, b"\x00\x00\x08\x01\x00\x00\x00\x05ab", b"", b"PNG"]
)
def test_a_broken_idx_file_is_refused(tmp_path, content):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"x\.gz"):
        read_idx(path)


def test_csv_integers_reads_what_csv_reads():
    table = np.random.default_rng(1).integers(0, 1000, (50, 7))
    text = "\r\n".join(",".join(map(str, row)) for row in table)
    assert np.array_equal(csv_integers(text.encode()), table)


@pytest.mark.parametrize(
    "text", [b"1,2\n3\n4,5,6\n", b"1,-2\n", b"1,2.5\n", b"1,,2\n", b"1000,2\n", b"1,2\n3,4,5\n6\n"]
)
def test_csv_integers_refuses_the_rest(text):
    with pytest.raises(ValueError):
        csv_integers(text)


def write_cifar(folder, hundred: bool, per_file: int = 20):
    """Binary files in the standard layout; returns {file: (labels [n, 1 or 2], pixels [n, 3, 32, 32])}."""
    generator = np.random.default_rng(7)
    folder.mkdir()
    files = ["train.bin", "test.bin"] if hundred else [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]
    written = {}
    for file in files:
        labels = generator.integers(0, 20 if hundred else 10, (per_file, 2 if hundred else 1), dtype=np.uint8)
        pixels = generator.integers(0, 256, (per_file, 3, 32, 32), dtype=np.uint8)
        content = b"".join(bytes(labels[i]) + pixels[i].tobytes() for i in range(per_file))
        (folder / file).write_bytes(content)
        written[file] = (labels, pixels)
    if hundred:
        (folder / "fine_label_names.txt").write_text("".join(f"fine{n}\n" for n in range(100)))
        (folder / "coarse_label_names.txt").write_text("".join(f"coarse{n}\n" for n in range(20)) + "\n")
    else:
        (folder / "batches.meta.txt").write_text("".join(f"class{n}\n" for n in range(10)) + "\n")
    return written


def test_cifar10_from_the_folder_and_from_the_archive(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    written = write_cifar(folder, hundred=False)
    images = cifar10(tmp_path, cache=tmp_path / "cache")
    assert np.array_equal(images.x, np.concatenate([pixels for _, pixels in written.values()]))
    assert np.array_equal(images.y, np.concatenate([labels[:, 0] for labels, _ in written.values()]))
    assert images.split.tolist() == [0] * 100 + [2] * 20
    assert images.classes[3] == "class3" and len(images.classes) == 10

    archive = tmp_path / "elsewhere" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    for root in (archive, archive.parent):
        other = cifar10(root, cache=tmp_path / "cache")
        assert np.array_equal(other.x, images.x) and other.source_hash == images.source_hash


def test_cifar100_fine_and_coarse(tmp_path):
    written = write_cifar(tmp_path / "cifar-100-binary", hundred=True)
    fine, coarse = cifar100(tmp_path), cifar100(tmp_path, coarse=True)
    assert len(fine.classes) == 100 and len(coarse.classes) == 20 and coarse.classes[0] == "coarse0"
    assert np.array_equal(fine.y, np.concatenate([labels[:, 1] for labels, _ in written.values()]))
    assert np.array_equal(coarse.y, np.concatenate([labels[:, 0] for labels, _ in written.values()]))
    assert np.array_equal(fine.x, coarse.x) and fine.source_hash == coarse.source_hash


def test_cifar_problems_are_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.root"):
        cifar10()
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz"):
        cifar10(tmp_path)
    write_cifar(tmp_path / "cut", hundred=False)
    with open(tmp_path / "cut" / "data_batch_3.bin", "ab") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=r"data_batch_3\.bin has 1000 bytes"):
        cifar10(tmp_path / "cut")
    broken = tmp_path / "cifar-10-binary.tar.gz"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(tmp_path / "cut", arcname="cut")
    broken.write_bytes(buffer.getvalue()[:5000])
    with pytest.raises(UserError, match="cannot be unpacked"):
        cifar10(broken, cache=tmp_path / "cache")
    python_version = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(python_version, "w:gz") as tar:
        tar.add(tmp_path / "cut" / "batches.meta.txt", arcname="cifar-10-batches-py/data_batch_1")
    with pytest.raises(UserError, match="binary"):
        cifar10(python_version, cache=tmp_path / "cache")


def test_sources_import_no_torch():
    shipped = [f"domains.images.shipped.{name}" for name in ("digits", "mnist_5k", "fashion_mnist", "cifar")]
    for name in (*shipped, "domains.images.image_folder", "domains.load"):
        text = importlib.util.find_spec(f"kdrun.{name}").loader.get_source(f"kdrun.{name}")
        assert not any(
            line.startswith(("import torch", "from torch", "import lightning")) for line in text.splitlines()
        )
