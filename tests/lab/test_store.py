"""The store: whole or not at all, verified, one builder per stage."""

import json
import multiprocessing
import os
import time

import pytest

from kdrun.lab.store import DamagedStage, Store

KEY = "ab" + "0" * 62


def finish(store: Store, key: str = KEY, text: str = "weights") -> None:
    work = store.work(key)
    (work / "best.safetensors").write_text(text)
    store.put(key, [work / "best.safetensors"], {"answer": 42})


def test_a_finished_stage_is_found_with_its_record_and_its_work_folder_is_gone(tmp_path):
    store = Store(tmp_path)
    assert store.get(KEY) is None
    finish(store)
    assert store.get(KEY) == {"answer": 42}
    assert (store.folder(KEY) / "best.safetensors").read_text() == "weights"
    assert not (tmp_path / "unfinished" / KEY).exists()


@pytest.mark.parametrize("name", ["best.safetensors", "record.json"])
def test_a_changed_file_is_noticed_and_kept_aside(tmp_path, name):
    store = Store(tmp_path)
    finish(store)
    path = store.folder(KEY) / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(DamagedStage, match=name):
        store.get(KEY)
    assert store.get(KEY) is None
    assert len(list(store.folder(KEY).parent.glob(f"{KEY}.damaged-*"))) == 1


def test_a_broken_manifest_is_damage_not_a_crash(tmp_path):
    store = Store(tmp_path)
    finish(store)
    (store.folder(KEY) / "manifest.json").write_text("{")
    with pytest.raises(DamagedStage):
        store.get(KEY)


def test_a_folder_without_manifest_is_not_a_stage(tmp_path):
    store = Store(tmp_path)
    folder = store.folder(KEY)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"answer": 1}))
    assert store.get(KEY) is None


def test_putting_again_replaces(tmp_path):
    store = Store(tmp_path)
    finish(store, text="old")
    finish(store, text="new")
    assert (store.folder(KEY) / "best.safetensors").read_text() == "new"
    assert store.get(KEY) == {"answer": 42}
    assert [path.name for path in store.folder(KEY).parent.iterdir()] == [KEY]  # the old one is not kept


def _hold(root, started, seconds):
    store = Store(root)
    with store.lock(KEY):
        started.set()
        time.sleep(seconds)
        finish(store)


def test_the_second_process_waits_and_finds_the_result(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), started, 0.5))
    process.start()
    assert started.wait(30)
    waited = []
    store = Store(tmp_path)
    with store.lock(KEY, lambda: waited.append(True)):
        assert store.get(KEY) == {"answer": 42}
    process.join()
    assert waited == [True]


def _die_holding(root, started):
    with Store(root).lock(KEY):
        started.set()
        time.sleep(60)


def test_a_killed_holder_frees_the_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_die_holding, args=(str(tmp_path), started))
    process.start()
    assert started.wait(30)
    os.kill(process.pid, 9)
    process.join()
    begun = time.monotonic()
    with Store(tmp_path).lock(KEY):
        pass
    assert time.monotonic() - begun < 5
