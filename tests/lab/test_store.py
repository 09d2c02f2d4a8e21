"""The store: whole or not at all, verified, one builder per stage."""

import hashlib
import json
import multiprocessing
import os
import socket
import time

import pytest

from kdrun.lab.store import DamagedStage, Store
from kdrun.learning.resampling import read_samples

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


OTHER = "cd" + "0" * 62


def test_a_stage_in_the_place_of_another_is_not_taken(tmp_path):
    store = Store(tmp_path)
    finish(store, KEY, "one")
    finish(store, OTHER, "two")
    aside = store.folder(KEY).rename(tmp_path / "aside")
    store.folder(OTHER).rename(store.folder(KEY))
    aside.rename(store.folder(OTHER))
    for key in (KEY, OTHER):
        with pytest.raises(DamagedStage, match="in the wrong place"):
            store.get(key)
        assert store.get(key) is None


@pytest.mark.parametrize(
    "manifest", [{"files": {}}, {}, [1], None, {"files": None}, {"files": {"best.safetensors": "x"}}]
)
def test_a_manifest_that_does_not_list_the_record_passes_nothing(tmp_path, manifest):
    store = Store(tmp_path)
    finish(store)
    (store.folder(KEY) / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedStage):
        store.get(KEY)


def test_a_file_that_was_put_there_is_not_the_stages(tmp_path, caplog):
    store = Store(tmp_path)
    finish(store)
    (store.folder(KEY) / "samples.test.jsonl").write_text('{"id": 1}\n')
    assert read_samples(store.folder(KEY)) == [], "nor where nobody looked the stage up before"
    assert store.get(KEY) == {"answer": 42} and "does not belong to it" in caplog.text
    assert not list(store.folder(KEY).glob("samples.*")) and (store.folder(KEY) / "stray-samples.test.jsonl").is_file()


def test_what_lies_in_a_work_folder_is_no_result(tmp_path):
    store = Store(tmp_path)
    for name in ("samples.other.jsonl", "extra.safetensors", "best-3.safetensors", "checkpoint.pt"):
        (store.work(KEY) / name).write_text("x")
    assert {path.name for path in store.begin(KEY, anew=False).iterdir()} == {"best-3.safetensors", "checkpoint.pt"}
    assert {path.name for path in store.begin(KEY, anew=True).iterdir()} == {"anew"}
    (store.work(KEY) / "checkpoint.pt").write_text("x")
    assert (store.begin(KEY, anew=True) / "checkpoint.pt").is_file(), "of a try that was made anew as well"


def test_a_stage_of_a_version_without_seals_stays_valid(tmp_path):
    store = Store(tmp_path)
    folder = store.folder(KEY)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"fingerprint": KEY}))
    digest = hashlib.sha256((folder / "record.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"files": {"record.json": digest}}))
    assert store.get(KEY) == {"fingerprint": KEY}


def test_who_is_waited_for_is_named(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), started, 0.5))
    process.start()
    assert started.wait(30)
    store, said = Store(tmp_path), []
    with store.lock(KEY, lambda: said.append(store.waiting_text(KEY, "has been fitting teacher/seed=0"))):
        pass
    process.join()
    (text,) = said
    assert text.startswith(
        f"waiting for process {process.pid} on {socket.gethostname()}, which has been fitting teacher/seed=0 since 20"
    )
    assert text.endswith(f"if it hangs: kill {process.pid}, and this goes on")
    assert [path.name for path in (tmp_path / "locks").iterdir()] == [f"{KEY}.lock"]
