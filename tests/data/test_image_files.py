"""Which folders are splits, which are classes, and what is said of everything else."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from kdrun.data.source import part_of
from kdrun.domains.images.image_folder import image_folder
from kdrun.domains.load import load_data
from kdrun.problems import UserError


def write(root, *paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        elif path.endswith((".png", ".jpg")):
            Image.new("L", (4, 4), number + 1).save(root / path)
        else:
            (root / path).write_bytes(b"something else")


def read(root):
    return image_folder(root, cache=root.parent / "cache")


def splits_of(root):
    images = read(root)
    return {name: int(images.split[place]) for place, name in enumerate(images.names)}


def told(root):
    with pytest.raises(UserError) as caught:
        read(root)
    assert len(caught.value.lines) <= 4
    return "\n".join(caught.value.lines)


NAMES = [
    ("train", "val", "test"),
    ("Train", "Val", "Test"),
    ("TRAIN", "VALID", "TEST"),
    ("training", "validation", "testing"),
    ("Training", "dev", "Testing"),
    ("training_set", "val_set", "test_set"),
    ("train2017", "val2017", "test2017"),
    ("Train Images", "valset", "test-images"),
]


@pytest.mark.parametrize("names", NAMES, ids=[names[0] for names in NAMES])
@pytest.mark.parametrize(
    "beside", [(), ("logs/",), ("__MACOSX/train/a/._0.png", "unlabelled/0.png", ".git/x/0.png")], ids=len
)
def test_splits_under_their_common_names(names, beside, tmp_path):
    root = tmp_path / "r"
    write(root, *(f"{part}/{label}/{n}.png" for part in names for label in "ab" for n in range(2)), *beside)
    images = read(root)
    assert images.classes == ("a", "b") and np.bincount(images.split).tolist() == [4, 4, 4]
    assert {name.split("/")[0] for name in images.names} == set(names)
    shown = [path.rstrip("/").split("/")[0] for path in beside if path[0] not in "._"]
    assert [name for name in shown if not any(name in note for note in images.notes)] == []
    assert bool(images.notes) == bool(shown)


def test_a_folder_beside_the_splits_changes_nothing_but_what_is_told(tmp_path):
    root = tmp_path / "r"
    write(root, *(f"{part}/{label}/0.png" for part in ("train", "val", "test") for label in "ab"))
    config = {"_target_": "kdrun.domains.images.image_folder.image_folder", "root": str(root)}
    plain = load_data(config, {"cache": str(tmp_path)})
    write(root, "logs/", "notes/readme.txt")
    with_logs = load_data(config, {"cache": str(tmp_path)})
    assert with_logs.images.content_hash == plain.images.content_hash and with_logs.spec == plain.spec
    assert with_logs.audit()["notes"] == ["left out, since they are no split: logs (empty), notes (1 .txt)"]
    assert "logs (empty)" in with_logs.audit()["summary"] and plain.audit()["notes"] == []


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (("train/a/0.png", "val/a/1.png", "valid/a/2.png"), "val and valid are both val"),
        (("Train/a/0.png", "train/a/1.png", "test/a/2.png"), "Train and train are both train"),
        (("train/a/0.png", "test1/a/1.png", "test2/a/2.png"), "test1 and test2 are both test"),
        (("val/a/0.png", "test/a/1.png"), "but no train"),
        (("train/0.png", "test/1.png"), "test, train hold no images in folders of classes"),
        (("train/a/0.png", "car/0.png"), "train is called like a split, and car beside it like a class"),
        (("cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png"), "cat/test, cat/train"),
        (("pets/train/a/0.png", "pets/val/a/1.png"), "data.root="),
        (("0.png", "1.png"), "no images in subfolders"),
        (("seg_train/a/0.png", "seg_test/a/1.png", "seg_pred/2.png"), "are seg_test, seg_train classes or splits"),
        (("Trainingsdaten/a/0.png", "Testdaten/a/1.png"), "are Testdaten, Trainingsdaten classes or splits"),
        (("tr/a/0.png", "va/a/1.png", "te/a/2.png"), "are te, tr, va classes or splits"),
        (("train/train/a/0.png", "train/train/b/1.png", "val/val/a/2.png"), "split within a split"),
        (("train/cat/0.png", "train/dog/1.png", "val/Cat/2.png"), "'Cat' (1 images); 'cat' (1 images)"),
        (("red panda/0.png", "red_panda/1.png"), "data.alike=merge makes them one"),
        (("1/0.png", "01/1.png"), "one class or several"),
        (("a/0.png", "b/1\udce9.png"), "b/1\\xe9.png: its name is not UTF-8"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(paths, said, tmp_path):
    write(tmp_path / "r", *paths)
    assert said in told(tmp_path / "r")


def test_images_of_no_class_are_told(tmp_path):
    root = tmp_path / "r"
    write(root, "train/a/0.png", "train/b/1.png", "test/2.png", "test/3.png", "4.png")
    images = read(root)
    assert images.names == ("train/a/0.png", "train/b/1.png") and images.split.tolist() == [0, 0]
    assert "files in no folder of a class: 3 .png" in images.notes


SYSTEM = (
    *("__MACOSX/", "@eaDir/", ".Trash-1000/", "lost+found/", ".git/", ".ipynb_checkpoints/", "$RECYCLE.BIN/"),
    *("System Volume Information/", "._", "."),
)


@pytest.mark.parametrize("where", ["", "a/", "a/deeper/"])
def test_what_systems_leave_behind_is_passed_over_at_every_depth(where, tmp_path):
    root = tmp_path / "r"
    write(root, "a/0.png", "a/deeper/1.png", "b/2.png", *(f"{where}{system}x.png" for system in SYSTEM))
    write(root, f"{where}Thumbs.db", f"{where}.DS_Store", f"{where}desktop.ini")
    images = read(root)
    assert images.classes == ("a", "b") and len(images) == 3 and images.notes == ()


def test_links_are_followed_but_not_in_circles(tmp_path):
    root = tmp_path / "r"
    write(tmp_path, "elsewhere/0.png")
    write(root, "a/1.png", "b/2.png")
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "up").symlink_to(root)
    assert read(root).names == ("a/1.png", "a/more/0.png", "b/2.png")


def test_class_names_that_differ_in_normalisation_are_one(tmp_path):
    root = tmp_path / "r"
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    write(root, f"train/{composed}/0.png", "train/a/1.png", f"val/{decomposed}/2.png", "val/a/3.png")
    images = read(root)
    assert images.classes == ("a", composed)
    assert any("accents" in note and composed in note for note in images.notes)
    again = tmp_path / "again"
    write(again, f"train/{decomposed}/0.png", "train/a/1.png", f"val/{composed}/2.png", "val/a/3.png")
    first = {name: (images.ids[i], images.y[i]) for i, name in enumerate(images.names)}
    images = read(again)
    assert {name: (images.ids[i], images.y[i]) for i, name in enumerate(images.names)} == first


@pytest.mark.parametrize("name", ["0.svg", "0.heic", "0.npy", "0"])
def test_a_class_that_would_vanish_is_an_error(name, tmp_path):
    root = tmp_path / "r"
    write(root, "cat/0.png", f"dog/{name}")
    text = told(root)
    assert "class dog" in text and f"1 {name[1:] or 'without extension'}" in text
    write(root, "dog/1.png")
    assert read(root).notes == (f"files that are not read: 1 {name[1:] or 'without extension'}",)


def test_a_class_in_files_called_jfif(tmp_path):
    root = tmp_path / "r"
    write(root, "cat/0.jpg", "dog/1.jpg")
    (root / "dog" / "1.jpg").rename(root / "dog" / "1.jfif")
    assert read(root).classes == ("cat", "dog")


def test_folders_without_images_are_told(tmp_path):
    root = tmp_path / "r"
    write(root, "cat/0.png", "dog/1.png", "logs/run.log", "empty/")
    images = read(root)
    assert images.classes == ("cat", "dog")
    assert images.notes == ("left out, since they hold no images: empty (empty), logs (1 .log)",)


@pytest.mark.parametrize("classes", [("train", "bus"), ("trainer", "valley", "cat", "dog", "cow")])
def test_classes_that_sound_like_splits(classes, tmp_path):
    write(tmp_path / "r", *(f"{name}/{number}.png" for name in classes for number in range(2)))
    assert read(tmp_path / "r").classes == tuple(sorted(classes))


@pytest.mark.parametrize(("alike", "classes"), [("merge", ("cat", "dog")), ("keep", ("Cat", "cat", "dog"))])
def test_names_that_differ_in_spelling_as_was_said(alike, classes, tmp_path):
    root = tmp_path / "r"
    write(root, "train/cat/0.png", "train/cat/1.png", "train/dog/2.png", "val/Cat/3.png", "val/dog/4.png")
    images = image_folder(root, alike=alike, cache=tmp_path / "cache")
    assert images.classes == classes
    of = {name: images.classes[label] for name, label in zip(images.names, images.y, strict=True)}
    assert of["val/Cat/3.png"] == classes[0] and of["train/cat/0.png"] == "cat"
    assert ("labels that are one: 'Cat', 'cat'" in images.notes) == (alike == "merge")


def test_a_class_or_a_split_of_which_nothing_can_be_decoded_is_an_error(tmp_path):
    root = tmp_path / "r"
    write(root, "train/cat/0.png", "train/dog/1.png", "val/cat/2.png", "val/dog/3.png", "test/cat/4.png")
    (root / "test/cat/4.png").write_bytes(b"")
    assert "no file of the split test can be decoded" in told(root)
    (root / "test/cat/4.png").write_bytes((root / "val/cat/2.png").read_bytes())
    for name in ("train/dog/1.png", "val/dog/3.png"):
        (root / name).write_bytes(b"")
    assert "no file of class dog can be decoded" in told(root)


def test_a_split_without_files_is_told(tmp_path):
    root = tmp_path / "r"
    write(root, "train/cat/0.png", "train/dog/1.png", "val/", "test/cat/2.png")
    assert "splits without images, so that theirs are taken from train: val" in read(root).notes


def test_links_to_themselves_are_passed_over(tmp_path):
    root = tmp_path / "r"
    write(root, "cat/0.png", "dog/1.png")
    (root / "cat/again").symlink_to(root / "cat/again")
    (root / "again").symlink_to(root / "again")
    assert read(root).names == ("cat/0.png", "dog/1.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unreadable for this user")
@pytest.mark.parametrize("place", ["cat", "cat/0.png"])
def test_what_may_not_be_read_is_named(place, tmp_path):
    write(tmp_path / "r", "cat/0.png", "dog/1.png")
    (tmp_path / "r" / place).chmod(0)
    assert f"{place} cannot be read: permission denied" in told(tmp_path / "r")
    (tmp_path / "r" / place).chmod(0o700)


def test_one_class_is_nothing_to_learn(tmp_path):
    write(
        tmp_path / "r",
        *(f"{part}/images/{label}/{n}.png" for part in ("train", "val") for label in "ab" for n in (1, 2)),
    )
    config = {
        "_target_": "kdrun.domains.images.image_folder.image_folder",
        "root": str(tmp_path / "r"),
        "val_fraction": 0.1,
    }
    with pytest.raises(UserError, match=r"one class \(images\)"):
        load_data({**config, "test_fraction": 0.1}, {"cache": str(tmp_path / "cache")}).audit()


def test_words_that_only_hold_the_name_of_a_split():
    for word in ("contest", "train station", "protest", "pretrain", "valley", "", "data", "set", "2017"):
        assert part_of(word) is None
