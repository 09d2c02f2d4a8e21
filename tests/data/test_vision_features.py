"""Features of images are computed once, survive a kill and a neighbour, and are never taken from a damaged file."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from vision_support import Store, Tower, conversations, mixed, module_of, question, tiny_tower

from kdrun.domains.vision_language import features as vision_features
from kdrun.domains.vision_language.features import BLOCK, FeatureCache

COUNT = 5 * BLOCK + 3
EVERY = np.arange(COUNT)


def cache_of(tmp_path, store=None, tower=None, size=32):
    return FeatureCache(tmp_path, store or Store(COUNT), tower or Tower(), size)


def files(cache):
    return {name: (cache.folder / name).read_bytes() for name in ("features.npy", "marks.npy")}


class Killed(Tower):
    """Dies without a word, or raises, at its third call."""

    def __init__(self, die):
        super().__init__()
        self.die = die

    def forward(self, pixels):
        found = super().forward(pixels)
        if len(self.calls) == 3:
            if self.die:
                os._exit(9)
            raise KeyboardInterrupt
        return found


def build(folder, die=False, wanted=EVERY):
    FeatureCache(folder, Store(COUNT), Killed(die) if die else Tower(), 32).build(wanted)


@pytest.fixture
def unbroken(tmp_path):
    cache = cache_of(tmp_path / "unbroken")
    cache.build(EVERY)
    return cache


def test_are_what_the_tower_says(tmp_path, unbroken):
    numbers = np.array([7, 0, 7, 100])
    tower = Tower()
    live = tower(tower.normalise(torch.from_numpy(Store(COUNT).pixels(numbers))))
    found = unbroken.read(numbers)
    assert found.dtype == torch.float32 and found.shape == (4, 4, 3)
    assert torch.equal(found, live.half().float())


def test_are_computed_once(tmp_path):
    cache = cache_of(tmp_path)
    cache.build(EVERY)
    assert set(cache.tower.calls) == {BLOCK} and len(cache.tower.calls) == 6
    again = cache_of(tmp_path)
    again.read(EVERY)
    again.build(EVERY)
    assert again.tower.calls == [] and again.images.asked == []


def test_only_what_is_wanted(tmp_path, unbroken):
    """Which others were computed with an image changes no bit of it."""
    cache, told = cache_of(tmp_path), []
    few = np.array([1, 50, 90, 91, 160])
    assert cache.missing(few) == 5 and cache.images.asked == []
    cache.build(few, told.append)
    assert told == [5] and cache.missing(few) == 0 and cache.missing(EVERY) == COUNT - 5
    assert cache.tower.calls == [BLOCK] and set(cache.images.asked) == set(few.tolist())
    assert torch.equal(cache.read(few), unbroken.read(few))
    assert torch.equal(cache.read(EVERY), unbroken.read(EVERY)), "what is missing is computed when it is read"
    assert files(cache) == files(unbroken)


@pytest.mark.parametrize("die", [False, True])
def test_killed_and_resumed_is_unbroken(tmp_path, unbroken, die, monkeypatch):
    monkeypatch.setattr(vision_features, "FLUSH", 1)
    if die:
        process = multiprocessing.get_context("fork").Process(target=build, args=(tmp_path, True))
        process.start()
        process.join()
        assert process.exitcode == 9
    else:
        with pytest.raises(KeyboardInterrupt):
            cache_of(tmp_path, tower=Killed(False)).build(EVERY)
    cache = cache_of(tmp_path)
    assert cache.missing(EVERY) == COUNT - 2 * BLOCK and not (cache.folder / "manifest.json").exists()
    cache.build(EVERY)
    assert len(cache.tower.calls) == 4, "what was there is not computed again"
    assert files(cache) == files(unbroken)
    assert (cache.folder / "manifest.json").read_bytes() == (unbroken.folder / "manifest.json").read_bytes()


def test_torn_features_are_seen(tmp_path, unbroken):
    cache = cache_of(tmp_path)
    cache.build(np.arange(40))
    rows = np.load(cache.folder / "features.npy", mmap_mode="r+")
    rows[3] = 0  # as after a power cut: the mark is there, the features are not
    rows.flush()
    again = cache_of(tmp_path)
    assert torch.equal(again.read(np.arange(40)), unbroken.read(np.arange(40)))
    assert set(again.images.asked) == {3}


def test_a_damaged_file_is_made_again_and_told(tmp_path, unbroken, caplog):
    whole = unbroken.read(EVERY)
    rows = np.load(unbroken.folder / "features.npy", mmap_mode="r+")
    rows[3] = 0
    rows.flush()
    again = cache_of(tmp_path / "unbroken")
    assert torch.equal(again.read(EVERY), whole) and set(again.images.asked) == set(EVERY.tolist())
    assert "wrong content in features.npy" in caplog.text and "computed again" in caplog.text


@pytest.mark.parametrize("name", ["features.npy", "marks.npy", "manifest.json"])
def test_a_file_that_is_gone_or_cut_is_made_again(tmp_path, unbroken, name):
    whole, path = unbroken.read(EVERY), unbroken.folder / name
    path.write_bytes(path.read_bytes()[:-10])
    assert torch.equal(cache_of(tmp_path / "unbroken").read(EVERY), whole)
    path.unlink()
    assert torch.equal(cache_of(tmp_path / "unbroken").read(EVERY), whole)


def test_two_processes(tmp_path, unbroken):
    """They wait for each other, and what comes out is what one makes."""
    context = multiprocessing.get_context("fork")
    halves = (EVERY[: COUNT // 2 + 20], EVERY[COUNT // 2 - 20 :])
    processes = [context.Process(target=build, args=(tmp_path, False, half)) for half in halves]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    cache = cache_of(tmp_path)
    assert torch.equal(cache.read(EVERY), unbroken.read(EVERY)) and cache.tower.calls == []
    assert files(cache) == files(unbroken)


def test_key(tmp_path):
    class Other(Tower):
        identity = "tiny@ffffffffffff"

    keys = {
        cache_of(tmp_path).folder,
        cache_of(tmp_path, Store(COUNT, seed=1)).folder,
        cache_of(tmp_path, Store(COUNT + 1)).folder,
        cache_of(tmp_path, tower=Other()).folder,
        cache_of(tmp_path, size=64).folder,
    }
    assert len(keys) == 5


def test_captions_and_questions_of_a_store_share_them(tmp_path, monkeypatch):
    tower = tiny_tower(monkeypatch)
    captions = [question(number) for number in range(0, 20, 5)]
    modules = [
        module_of(tmp_path, conversations(train, mixed(3, 50), mixed(3, 60), name=name))
        for name, train in (("a", mixed(20)), ("b", captions))
    ]
    assert modules[0].pictures.features.folder == modules[1].pictures.features.folder
    assert modules[0].features_missing() > 0
    modules[0].prepare()
    done = len(tower.calls)
    assert modules[0].features_missing() == modules[1].features_missing() == 0
    list(modules[1].eval_loader("train", 8))
    assert len(tower.calls) == done


def test_size_is_told_before(tmp_path, monkeypatch):
    tiny_tower(monkeypatch)
    module = module_of(tmp_path, conversations(mixed(20), mixed(3, 50), mixed(3, 60)))
    assert module.pictures.features.bytes == 200 * 28
    assert not (tmp_path / "cache" / "features").exists()
    module.prepare()
    stored = sum(path.stat().st_size for path in module.pictures.features.folder.glob("*.npy"))
    assert stored == pytest.approx(module.pictures.features.bytes, abs=300)


def test_values_beyond_float16(tmp_path):
    class Large(Tower):
        def forward(self, pixels):
            return super().forward(pixels) * 1e6

    assert cache_of(tmp_path, tower=Large()).read(EVERY[:3]).isfinite().all()


def test_an_unfinished_file_that_was_cut_is_mended(tmp_path, unbroken):
    cache = cache_of(tmp_path)
    cache.build(np.arange(COUNT - 20, COUNT))
    path = cache.folder / "features.npy"
    path.write_bytes(path.read_bytes()[:-30])
    again = cache_of(tmp_path)
    assert torch.equal(again.read(EVERY), unbroken.read(EVERY)) and files(again) == files(unbroken)


def test_an_image_that_no_split_has_is_seen_as_one_of_the_store(tmp_path, unbroken):
    """A block has always the same size, so a single image gets the same bits."""
    tower = Tower()
    found = vision_features.compute(tower, Store(COUNT).pixels(np.array([77])))
    assert torch.equal(found.float(), unbroken.read(np.array([77]))) and tower.calls == [BLOCK]
