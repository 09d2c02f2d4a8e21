"""Caches of teachers' outputs in shards: the bits of one file, each mended by itself, built by all ranks."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from forked import stand_in

from kdrun.checksums import damage
from kdrun.learning import cache, rowcache, shards, workers
from kdrun.learning.cache import OutputCache
from kdrun.learning.rowcache import RowCache
from kdrun.learning.shards import turns
from kdrun.slots import allowing
from kdrun.strategies.cast import Cast, distil, supervised

from .stages import cell, make_lab, teach
from .test_references import Said, inputs

CPU = torch.device("cpu")
IDS = torch.arange(10)
LOGITS = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    monkeypatch.setattr(cache, "BLOCK", 4)
    monkeypatch.setattr(rowcache, "BLOCK", 2)


def made(folder) -> OutputCache:
    found = OutputCache(folder, IDS, 2, 3, {"of": "a test"})
    found.build(Said(LOGITS), inputs, CPU)
    found.finish({"preflight": {"accuracy": 1.0}})
    return found


def test_shards_are_read_as_one_cache(tmp_path, small):
    found = made(tmp_path)
    assert [shard.rows for shard in found.shards] == [slice(0, 4), slice(4, 8), slice(8, 10)]
    again = OutputCache(tmp_path, IDS, 2, 3, {"of": "a test"})
    assert again.complete and not again.missing() and again.any()
    rows = torch.tensor([9, 0, 5, 4, 1])
    assert all(torch.equal(again.read(view, rows), LOGITS[rows]) for view in range(2))
    assert again.largest_error(Said(LOGITS), inputs, CPU, 10, 0) == 0.0
    assert json.loads((tmp_path / "manifest.json").read_text())["preflight"] == {"accuracy": 1.0}


def test_a_damaged_shard_is_made_again_and_the_others_stay(tmp_path, small, caplog):
    before = made(tmp_path).shards[0].arrays["logits"].tobytes()
    with open(tmp_path / "0001" / "logits.npy", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x01\x02\x03\x04")
    assert "0001/logits.npy" in damage(tmp_path)  # what `kdrun gc` finds
    again = OutputCache(tmp_path, IDS, 2, 3, {"of": "a test"})
    assert [shard.complete for shard in again.shards] == [True, False, True] and "0001" in caplog.text
    assert again.missing() == 8
    asked = Said(LOGITS)
    asked.outputs = lambda batch, step=0, say=asked.outputs: seen.append(batch["inputs"].tolist()) or say(batch)
    seen = []
    again.build(asked, inputs, CPU)
    assert seen == [[4, 5, 6, 7], [4, 5, 6, 7]]
    again.finish()
    assert again.complete and again.shards[0].arrays["logits"].tobytes() == before and damage(tmp_path) is None


class Rows(RowCache):
    def compute(self, rows, teacher, device, moved):
        for row in rows:
            self.put(int(row), x=np.full((self.counts[row], 2), teacher + row, np.float16))


def test_samples_of_like_length_share_a_shard_and_blocks_stay_what_they_were(tmp_path, small, monkeypatch):
    counts = torch.tensor([9, 1, 8, 2, 7, 3, 6, 4])

    def build(folder):
        found = Rows(folder, torch.arange(8), lambda ids: counts[ids], {"x": (np.float16, 2)}, {})
        found.build(0, CPU, lambda done: None, None)
        found.finish()
        return found

    found = build(tmp_path / "many")
    blocks = [rows.tolist() for shard in found.shards for rows, *_ in found.blocks(shard)]
    assert [len(shard.rows) for shard in found.shards] == [6, 2]
    monkeypatch.setattr(shards, "SHARD_BYTES", 1 << 20)
    whole = build(tmp_path / "one")
    assert blocks == [rows.tolist() for rows, *_ in whole.blocks(whole.shards[0])]
    assert all(np.array_equal(found.get(row)["x"], whole.get(row)["x"]) for row in range(8))
    assert [int(found.get(row)["x"][0, 0]) for row in range(8)] == list(range(8))


def test_a_rank_leaves_out_what_another_has_and_takes_it_where_that_one_died(tmp_path, small):
    """The lock of shard 1 is another's until all others are done."""
    found, asked = OutputCache(tmp_path, IDS, 2, 3, {}, lazy=True), []

    @contextmanager
    def lock(number, waiting):
        asked.append(number)
        if number == 1 and waiting is not None:
            waiting()
        yield

    taken = []
    for shard in turns(found.shards, lock, 1, 2):
        taken.append(shard.number)
        found.fill(shard, Said(LOGITS), inputs, CPU, lambda done: None)
        shard.finish()
    assert taken == [2, 0, 1] and asked == [1, 2, 0, 1]
    assert found.complete


def test_two_ranks_build_a_cache_together(tmp_path, monkeypatch):
    """The same bytes as of one process; each computes one of two shards."""
    monkeypatch.setattr(workers, "subprocess", stand_in())
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    words = ("teacher.source=cached", "trainer.epochs=1")
    own = (
        "targets.learning=true",
        "student=mlp_8",
        "student.network={_target_: learning.small_shards.Small}",
        "hardware.devices=2",
    )
    one, cast = teach(make_lab(tmp_path / "one"), *words), Cast(cell(*words))
    lab = make_lab(tmp_path / "two")
    with allowing(["learning"]):
        two = lab.get(distil(Cast(cell(*words, *own)).student, lab.get(supervised(cast.teacher))))
    (folder,), (other,) = ((tmp_path / name / "outputs").iterdir() for name in ("one", "two"))
    assert sorted(path.name for path in other.glob("*-?")) == ["0-0", "1-1"]
    assert folder.name == other.name and len(list(folder.rglob("logits.npy"))) == 2
    for path in folder.rglob("*.npy"):
        assert (other / path.relative_to(folder)).read_bytes() == path.read_bytes()
    for taught in (one.record["teacher"], two.record["teacher"]):
        assert taught["verified"] == 16 and taught["accuracy"] > 0.5 and taught["cache"]["samples"] == 300
