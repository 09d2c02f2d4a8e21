import os

import numpy as np
import pytest
from PIL import Image

from kdrun.domains.images import image_folder as source
from kdrun.domains.images.image_folder import image_folder
from kdrun.domains.load import content_hash, load_data
from kdrun.job.compose import compose
from kdrun.problems import UserError


def write(path, colour, size=(10, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pets"
    for number in range(10):
        write(root / "cat" / f"{number}.png", (number, 10, 20))
        write(root / "dog" / f"{number}.png", (100 + number, 10, 20))
    return root


def test_pixels_labels_and_ids(folder, tmp_path):
    images = image_folder(folder, cache=tmp_path)
    assert images.x.shape == (20, 3, 10, 10) and images.classes == ("cat", "dog")
    for position, name in enumerate(images.names):
        number = int(name.split("/")[1].split(".")[0])
        expected = number if name.startswith("cat") else 100 + number
        assert (images.x[position, 0] == expected).all() and (images.x[position, 1] == 10).all()
        assert images.classes[images.y[position]] == name.split("/")[0]
    assert images.ids.tolist() == list(range(20))


def test_resizing_and_grey(folder, tmp_path):
    write(folder / "cat" / "wide.png", (200, 200, 200), size=(40, 8))
    with pytest.raises(UserError, match=r"data\.size"):
        image_folder(folder, cache=tmp_path)
    images = image_folder(folder, size=8, grey=True, cache=tmp_path)
    assert images.x.shape == (21, 1, 8, 8)
    assert (images.x[images.names.index("cat/wide.png")] == 200).all()


def test_sixteen_bits_are_not_clipped_and_transparency_is_on_white(tmp_path):
    root = tmp_path / "deep"
    root.mkdir()
    (root / "a").mkdir()
    Image.fromarray(np.full((6, 6), 128 * 256, np.uint16)).save(root / "a" / "deep.png")
    write(root / "a" / "clear.png", (50, 60, 70, 0), size=(6, 6), mode="RGBA")
    images = image_folder(root, cache=tmp_path)
    assert (images.x[images.names.index("a/deep.png")] == 128).all()
    assert images.x[images.names.index("a/clear.png")][:, 0, 0].tolist() == [255, 255, 255]


def test_broken_files_are_named_and_keep_other_ids(folder, tmp_path):
    before = image_folder(folder, cache=tmp_path)
    (folder / "cat" / "3.png").write_bytes(b"no picture")
    content = (folder / "dog" / "5.png").read_bytes()
    (folder / "dog" / "5.png").write_bytes(content[: len(content) // 2])
    after = image_folder(folder, cache=tmp_path)
    assert after.unreadable == ("cat/3.png", "dog/5.png")
    assert sorted(set(range(20)) - set(after.ids.tolist())) == [3, 15]
    assert np.array_equal(after.x, before.x[after.ids])
    assert after.source_hash != before.source_hash
    module = load_data(
        {"_target_": "kdrun.domains.images.image_folder.image_folder", "root": str(folder)}, {"cache": str(tmp_path)}
    )
    found = module.audit()
    assert found["unreadable"] == ["cat/3.png", "dog/5.png"] and "cat/3.png" in found["summary"]


def test_all_broken_is_an_error(tmp_path):
    (tmp_path / "r" / "a").mkdir(parents=True)
    (tmp_path / "r" / "a" / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of 1 images"):
        image_folder(tmp_path / "r", cache=tmp_path)


def test_decoded_once_and_read_again_when_something_changed(folder, tmp_path, monkeypatch):
    first = image_folder(folder, cache=tmp_path)
    reads = []
    real = source.decode_image
    monkeypatch.setattr(source, "decode_image", lambda *arguments: reads.append(arguments) or real(*arguments))
    assert np.array_equal(image_folder(folder, cache=tmp_path).x, first.x) and not reads
    assert isinstance(first.x, np.memmap)
    os.utime(folder / "cat" / "0.png", (1, 1))  # touched, same content
    assert image_folder(folder, cache=tmp_path).source_hash == first.source_hash and not reads
    write(folder / "cat" / "0.png", (250, 0, 0))
    changed = image_folder(folder, cache=tmp_path)
    assert reads and changed.x[0, 0, 0, 0] == 250 and changed.source_hash != first.source_hash


def test_a_second_start_reads_no_pixels(folder, tmp_path, monkeypatch):
    from kdrun.data import audit, decoded
    from kdrun.domains.images import module as images

    words = ["data=image_folder", f"data.root={folder}", "student=mlp_8", "teacher=mlp_16"]
    config = compose(words).config["data"]

    def load():
        found = load_data(config, {"cache": str(tmp_path)})
        return found, found.audit()

    first, told = load()
    for owner, name in ((decoded, "read_manifest"), (audit, "audit"), (images, "_moments")):
        monkeypatch.setattr(owner, name, None)  # whatever passes over all pixels
    second, again = load()
    assert again == told and (second.spec.mean, second.spec.std) == (first.spec.mean, first.spec.std)
    config["val_fraction"] = 0.4  # another split: other training samples
    with pytest.raises(TypeError):
        load()
    monkeypatch.undo()
    assert load()[1]["samples"] != told["samples"]


@pytest.mark.parametrize("name", ["pixels.npy", "about.json", "manifest.json"])
def test_a_damaged_cache_is_made_again(folder, tmp_path, caplog, name):
    first = image_folder(folder, cache=tmp_path)
    (path,) = tmp_path.glob(f"decoded/image_folder-*/{name}")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    path.write_bytes(content)
    again = image_folder(folder, cache=tmp_path)
    assert (again.x == first.x).all() and (again.y == first.y).all() and again.source_hash == first.source_hash
    assert "is damaged; made again" in caplog.text


def test_own_split_is_kept(tmp_path):
    root = tmp_path / "parts"
    for part in ("train", "valid", "test"):
        for label in ("a", "b"):
            write(root / part / label / "0.png", (1, 2, 3))
    images = image_folder(root, cache=tmp_path)
    assert {name.split("/")[0]: int(images.split[i]) for i, name in enumerate(images.names)} == {
        "train": 0,
        "valid": 1,
        "test": 2,
    }
    assert images.classes == ("a", "b")


def test_a_class_called_train_is_a_class(tmp_path):
    for label in ("train", "car"):
        write(tmp_path / "r" / label / "0.png", (1, 2, 3))
    assert image_folder(tmp_path / "r", cache=tmp_path).classes == ("car", "train")


def test_stratified_split_of_a_folder_without_one(folder, tmp_path):
    config = {"_target_": "kdrun.domains.images.image_folder.image_folder", "root": str(folder), "val_fraction": 0.25}
    module = load_data(config, {"cache": str(tmp_path)})
    assert module.spec.sizes == {"train": 12, "val": 4, "test": 4}
    assert content_hash(config, {"cache": str(tmp_path)}) == module.images.content_hash


@pytest.mark.parametrize("root", [None, "absent", "."])
def test_what_is_wrong_with_the_root_is_said(root, tmp_path):
    with pytest.raises(UserError, match=r"data\.root"):
        image_folder(None if root is None else tmp_path / root, cache=tmp_path)


def test_a_sample_in_another_split_is_another_stage(tmp_path, capsys):
    """As a person meets it: folders are put right, and what was stored before is not taken for the result."""
    import kdrun

    root = tmp_path / "parts"
    for number, part in enumerate(("Training", "Validation", "Testing")):
        for grey in range(4):
            for place, label in enumerate("ab"):
                write(root / part / label / f"{grey}.png", (50 * number + 10 * grey + place, 0, 0))
    words = ("data=image_folder", f"data.root={root}", "strategy=vanilla", "teacher=mlp_64", "student=mlp_8", "seed=0")
    words += ("trainer.epochs=1", "hardware=cpu", "tracker=none", f"paths.outputs={tmp_path / 'outputs'}")

    from kdrun.verbs.plan import _show

    def planned():
        found = kdrun.plan(*words, f"paths.cache={tmp_path / 'cache'}")
        _show(found)
        return found["data"], {stage["fingerprint"] for stage in found["stages"]}

    data, stages = planned()
    assert data["sizes"] == {"train": 8, "val": 8, "test": 8} and data["audit"]["notes"] == []
    (root / "logs").mkdir()
    data, again = planned()
    assert again == stages and "left out, since they are no split: logs (empty)" in data["audit"]["summary"]
    assert "logs (empty)" in capsys.readouterr().out
    (root / "Testing" / "a" / "0.png").rename(root / "Validation" / "a" / "9.png")
    data, changed = planned()
    assert data["sizes"] == {"train": 8, "val": 9, "test": 7} and not changed & stages
