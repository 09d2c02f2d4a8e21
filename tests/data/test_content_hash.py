"""A stage whose data differ in anything that can change its result has another fingerprint, whatever source they are from;
the same data in another folder, with other times, have the same."""

import gzip
import json
import os
import shutil
import struct
from dataclasses import replace

import numpy as np
import pytest
from ct_support import body, write_nifti
from PIL import Image

from kdrun.domains.ct.source import Scans
from kdrun.domains.images.source import Images
from kdrun.domains.load import content_hash
from kdrun.domains.tabular.source import Table
from kdrun.domains.translation.source import Pairs
from kdrun.lab.fingerprint import FingerprintContext, identity

AFFINE = np.array([[-3.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])


def image(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), grey).save(path)


def write_images(root):
    for part, greys in (("train", (10, 20, 30)), ("test", (40,))):
        for label in ("a", "b"):
            for grey in greys:
                image(root / part / label / f"{grey}.png", grey + (label == "b"))


def write_idx(root):
    for part, count in (("train", 6), ("t10k", 4)):  # all alike: nothing but the lengths tells the parts apart
        (root / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 2, 2) + bytes(4 * count))
        (root / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(count))


def move_idx(root):
    for part, count in (("train", 5), ("t10k", 5)):
        (root / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 2, 2) + bytes(4 * count))
        (root / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(count))


def write_cifar(root, counts=(2, 2, 2, 2, 2, 2), names=("x", "y")):
    files = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    records = iter(bytes([number % 2]) + bytes([number]) * 3072 for number in range(sum(counts)))
    for file, count in zip(files, counts, strict=True):
        (root / file).write_bytes(b"".join(next(records) for _ in range(count)))
    (root / "batches.meta.txt").write_text("\n".join(names))


def write_digits(root, labels=(0, 1, 2)):
    rows = "".join(",".join(["1"] * 64 + [str(label)]) + "\n" for label in labels)
    (root / "digits.csv.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))


def write_diabetes(root, targets=(1, 2, 3)):
    rows = "".join(" ".join([str(place)] * 10) + "\n" for place in range(3))
    (root / "diabetes_data_raw.csv.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))
    (root / "diabetes_target.csv.gz").write_bytes(gzip.compress("".join(f"{t}\n" for t in targets).encode(), mtime=0))


def write_scans(root):
    for seed, name in enumerate("ABCD"):
        write_nifti(root / f"{name}.nii", np.ascontiguousarray(body(seed=seed).transpose(2, 1, 0)), AFFINE)
    labels(root, "A,0,train", "B,1,train", "C,0,val", "D,1,test")


def labels(root, *rows, header="patient,label,split"):
    (root / "labels.csv").write_text("\n".join([header, *rows]) + "\n")


def write_text(root, before=()):
    lines = [*before, *(f"satz {number}" for number in range(6))]
    (root / "text.de").write_text("\n".join(lines))
    (root / "text.en").write_text("\n".join(line.replace("satz", "sentence") for line in lines))


def write_conversations(root, **changes):
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / f"{number}.png")
    entries = [
        {
            "id": str(number),
            "image": f"{number}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\nwhat is {number}?"},
                {"from": "gpt", "value": f"a {number}"},
            ],
            **(changes if number == 1 else {}),
        }
        for number in range(4)
    ]
    (root / "all.json").write_text(json.dumps(entries))
    (root / "captions.json").write_text(json.dumps(entries[:2]))
    (root / "test.json").write_text(json.dumps(entries[3:]))


def write_pope(root):
    image(root / "val2014" / "0.png", 3)
    (root / "coco_pope_random.json").write_text(
        json.dumps({"question_id": 1, "image": "0.png", "text": "is there a cat?", "label": "no"})
    )


def rewrite(name, old, new):
    def change(root):
        path = root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def swap(first, second):
    def change(root):
        one, other = root / first, root / second
        one.rename(root / "moved")
        other.rename(one)
        (root / "moved").rename(other)

    return change


def same_time_and_length(root):
    """Another image in a file of the same name, length and time of change."""
    path = root / "train" / "a" / "10.png"
    status, length = path.stat(), path.stat().st_size
    image(path, 99)
    assert path.stat().st_size == length
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def text_options(root):
    return {"source": str(root / "text.de"), "target": str(root / "text.en"), "root": None}


SOURCES = {
    "image_folder": (write_images, "image_folder.image_folder", lambda root: {}),
    "fashion_mnist": (write_idx, "fashion_mnist.fashion_mnist", lambda root: {}),
    "cifar10": (write_cifar, "cifar.cifar10", lambda root: {}),
    "digits": (write_digits, "digits.digits", lambda root: {}),
    "diabetes": (write_diabetes, "diabetes.diabetes", lambda root: {}),
    "ct_folder": (
        write_scans,
        "ct_folder.ct_folder",
        lambda root: {"slices": 3, "size": 8, "fraction": [0.0, 1.0]},
    ),
    "parallel_text": (write_text, "parallel_text.parallel_text", text_options),
    "llava_json": (
        write_conversations,
        "llava_json.llava_json",
        lambda root: {"file": "all.json", "captions": "captions.json", "test_file": "test.json", "size": 8},
    ),
    "pope": (write_pope, "vqa_files.pope", lambda root: {"size": 8}),
}

CHANGES = [
    ("image_folder", "a sample in another split", lambda root: (root / "train/a/30.png").rename(root / "test/a/30.png")),
    ("image_folder", "splits change places", swap("train", "test")),
    ("image_folder", "a split less", lambda root: (root / "test").rename(root / "train" / "c")),
    ("image_folder", "other labels", swap("train/a/10.png", "train/b/10.png")),
    ("image_folder", "another name of a class", lambda root: (root / "train/a").rename(root / "train/z")),
    ("image_folder", "another order", swap("train/a/10.png", "train/a/20.png")),
    ("image_folder", "other pixels", same_time_and_length),
    ("image_folder", "a broken file", lambda root: (root / "train/a/10.png").write_bytes(b"x")),
    ("fashion_mnist", "a sample in another split", move_idx),
    ("cifar10", "a sample in another split", lambda root: write_cifar(root, (2, 2, 2, 2, 3, 1))),
    ("cifar10", "names of classes", lambda root: write_cifar(root, names=("y", "x"))),
    ("digits", "other labels", lambda root: write_digits(root, (1, 0, 2))),
    ("diabetes", "other targets", lambda root: write_diabetes(root, (2, 1, 3))),
    ("ct_folder", "a scan in another split", rewrite("labels.csv", "B,1,train", "B,1,test")),
    ("ct_folder", "other labels", rewrite("labels.csv", "A,0", "A,1")),
    ("ct_folder", "another name of a class", rewrite("labels.csv", ",0,", ",none of it,")),
    ("ct_folder", "other voxels", swap("A.nii", "B.nii")),
    (
        "ct_folder",
        "other patients",
        lambda root: labels(
            root,
            *("A,0,train,A.nii", "A,1,train,B.nii", "C,0,val,C.nii", "D,1,test,D.nii"),
            header="patient,label,split,path",
        ),
    ),
    ("parallel_text", "another order", rewrite("text.de", "satz 0", "satz 9")),
    ("parallel_text", "other ids", lambda root: write_text(root, before=[""])),
    ("llava_json", "another answer", rewrite("all.json", "a 2", "a 5")),
    ("llava_json", "another type", lambda root: write_conversations(root, type="colour")),
    ("llava_json", "a sample in another split", swap("test.json", "captions.json")),
    ("llava_json", "another order of images", swap("0.png", "1.png")),
    ("llava_json", "text that a tokenizer is made from", rewrite("captions.json", "a 1", "one more word")),
    ("pope", "another answer", rewrite("coco_pope_random.json", '"no"', '"yes"')),
]  # fmt: skip


def of(source, root, cache):
    """What of the data goes into a fingerprint."""
    _, target, options = SOURCES[source]
    tasks = {
        "diabetes": "regression",
        "parallel_text": "translation",
        "llava_json": "vision_language",
        "pope": "vision_language",
    }
    task = tasks.get(source, "classification")
    config = {"_target_": f"kdrun.data.{target}", "name": source, "task": task, "root": str(root), **options(root)}
    config = {key: value for key, value in config.items() if value is not None}
    return identity(config, FingerprintContext(lambda data: content_hash(data, {"cache": str(cache)}), "cpu"))


@pytest.mark.parametrize(("source", "what", "change"), CHANGES, ids=[f"{s}: {what}" for s, what, _ in CHANGES])
def test_whatever_can_change_a_result_changes_the_hash(source, what, change, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    SOURCES[source][0](root)
    before = of(source, root, tmp_path / "cache")
    change(root)
    assert of(source, root, tmp_path / "cache") != before


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_data_elsewhere_have_the_same_hash(source, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    SOURCES[source][0](root)
    before = of(source, root, tmp_path / "cache")
    other = tmp_path / "moved" / "here"
    shutil.copytree(root, other)
    for number, path in enumerate(sorted(other.rglob("*"))):
        os.utime(path, (number + 1, number + 1))
    (other / ".DS_Store").write_bytes(b"left by a system")
    (other / "__MACOSX").mkdir()
    shutil.rmtree(root)
    assert of(source, other, tmp_path / "another cache") == before


def test_a_source_of_ones_own_need_not_hash_its_labels():
    """source_hash says what the raw content is; the rest is added to it for every source."""
    x, y, ids = np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 1, 0, 1]), np.arange(4)
    split = np.array([0, 0, 1, 2], np.int8)
    images = Images(x, y, split, ids, ("a", "b"), "mine", "0" * 64)
    others = [
        replace(images, split=split[::-1].copy()),
        replace(images, y=y[::-1].copy()),
        replace(images, ids=ids + 1),
        replace(images, classes=("b", "a")),
        replace(images, source_hash="1" * 64),
        replace(images, decoded="1" * 64),
        Images(x.reshape(4, 1, 4, 1), y, split, ids, ("a", "b"), "mine", "0" * 64),
    ]
    scans = Scans(x, y, split, ids, ("a", "b"), "mine", "0" * 64, views=("v",), groups=tuple("abcd"))
    others += [
        scans,
        replace(scans, groups=tuple("abca")),
        replace(scans, views=("w",)),
        replace(scans, split=np.array([0, 0, 1, -1], np.int8), further={"shift": np.array([3])}),
    ]
    assert len({one.content_hash for one in [images, *others]}) == len(others) + 1
    assert replace(scans, groups=("secret-1", "s-2", "s-3", "s-4")).content_hash == scans.content_hash


def test_tables_and_pairs_hash_their_columns():
    rows, target, split, ids = np.eye(3, dtype=np.float32), np.ones(3, np.float32), np.zeros(3, np.int8), np.arange(3)
    table = Table(rows, target, split, ids, tuple("abc"), "t", "mine", "0")
    others = [
        replace(table, x=rows + 1),
        replace(table, y=target + 1),
        replace(table, split=split + np.int8(1)),
        replace(table, ids=ids + 1),
        replace(table, features=tuple("bac")),
        replace(table, target="u"),
    ]
    assert len({one.content_hash for one in [table, *others]}) == 7
    pairs = Pairs("mine", ("de", "en"), list("abc"), list("xyz"), split, ids)
    others = [
        replace(pairs, languages=("fr", "en")),
        replace(pairs, source=list("acb"), target=list("xzy")),
        replace(pairs, split=split + np.int8(1)),
        replace(pairs, ids=ids + 1),
        replace(pairs, groups=list("ggh")),
        replace(pairs, groups=list("ghh")),
        replace(pairs, lowercase=True),
        replace(pairs, extra=("shift",)),
        replace(pairs, source=["a\tx", "b", "c"]),
        replace(pairs, source=["a", "b", "c"], target=["x\ty", "y", "z"]),
    ]
    assert len({one.content_hash for one in [pairs, *others]}) == len(others) + 1
