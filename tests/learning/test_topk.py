"""A teacher's likeliest tokens: the loss on them, and their cache on disk against the live teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdrun.domains.task import Prediction
from kdrun.domains.translation.task import Translation
from kdrun.learning import topk
from kdrun.learning.teacher import FrozenTeacher
from kdrun.learning.teaching import moved
from kdrun.networks.build import build_network
from kdrun.objectives.kd import kd
from kdrun.objectives.topk import kd_topk

pytest.importorskip("sentencepiece")
NODE = {"_target_": "kdrun.domains.translation.networks.transformer.Transformer", "width": 16, "encoder_layers": 1, "decoder_layers": 1,
        "heads": 2, "feedforward": 32, "dropout": 0.1, "share": "all"}  # fmt: skip
CPU = torch.device("cpu")
FILES = ("ids.npy", "log_probs.npy", "marks.npy")


def top_of(logits, k):
    return topk.reduced(Prediction(logits), k).features


@pytest.mark.parametrize("k", [1, 3, 16])
def test_it_is_zero_at_equality_and_at_most_the_whole_divergence(k):
    student, teacher = torch.randn(40, 50) * 3, torch.randn(40, 50) * 3
    whole = kd(student, teacher, temperature=1.0)
    top = kd_topk(student, *top_of(teacher, k).values(), k=k)
    assert (top <= whole + 1e-5).all() and (top >= -1e-6).all()
    assert kd_topk(teacher, *top_of(teacher, k).values(), k=k).abs().max() < 1e-5


def test_all_classes_are_the_whole_divergence_and_its_gradient():
    student, teacher = (torch.randn(6, 9, dtype=torch.float64).requires_grad_() for _ in range(2))
    top = kd_topk(student, *(x.double() if x.is_floating_point() else x for x in top_of(teacher, 16).values()))
    whole = kd(student, teacher, temperature=1.0)
    torch.testing.assert_close(top, whole, rtol=1e-5, atol=1e-6)
    one, other = (torch.autograd.grad(x.sum(), student)[0] for x in (top, whole))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_certain_teacher_leaves_nothing_for_the_rest():
    student = torch.randn(2, 5, requires_grad=True)
    value = kd_topk(student, torch.tensor([[1], [3]]), torch.zeros(2, 1), k=1)
    torch.testing.assert_close(value, -student.log_softmax(-1)[[0, 1], [1, 3]])
    value.sum().backward()
    assert student.grad.isfinite().all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="disagree"):
        kd_topk(torch.zeros(3, 5), torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), k=4)
    with pytest.raises(ValueError, match="k=3"):
        kd_topk(torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), k=3)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    from text_support import COMMON

    from kdrun.domains.translation.build import text_module
    from kdrun.domains.translation.parallel_text import parallel_text

    folder = tmp_path_factory.mktemp("toy")
    words = [f"wort{a} {b}" for a in range(12) for b in ("rot", "blau und alt", "neu")]
    (folder / "a.de").write_text("\n".join(f"das {w} ist da" for w in words) + "\n")
    (folder / "a.en").write_text("\n".join(f"the {w.replace('wort', 'word')} is there" for w in words) + "\n")
    pairs = parallel_text(folder / "a.de", folder / "a.en")
    fractions = {"val_fraction": 0.1, "test_fraction": 0.1}
    return text_module(pairs, {**COMMON, "vocabulary": 300, **fractions}, folder / "cache")


@pytest.fixture
def live(module):
    return topk.TopTeacher(FrozenTeacher(build_network(NODE, module.spec, 1), Translation(module), "t"), 5)


def built(folder, module, live):
    cache = topk.TopCache(folder, module, 5, {})
    cache.build(live, CPU, lambda done: None, moved)
    cache.finish()
    return cache


def test_what_is_read_is_what_the_live_teacher_says_for_every_batch(tmp_path, module, live):
    teacher = topk.CachedTop(built(tmp_path, module, live), "t")
    for batch in module.train_loader(200, seed=3):
        found, said = teacher.outputs(batch).features, live.outputs(batch).features
        mask = batch["mask"]
        assert (found["top_ids"][mask] == said["top_ids"][mask]).float().mean() > 0.98  # ties may change places
        torch.testing.assert_close(found["top_log_probs"][mask], said["top_log_probs"][mask], rtol=2e-3, atol=2e-3)
        assert not found["top_log_probs"][~mask].any()
    assert topk.cache_bytes(module, 5) == sum((tmp_path / n).stat().st_size - 128 for n in FILES)
    assert teacher.cache.largest_error(live, CPU, 16, 0, moved) < 0.02


def test_a_build_that_was_cut_goes_on_and_a_torn_sentence_is_seen(tmp_path, module, live):
    whole = built(tmp_path / "whole", module, live)
    cache = topk.TopCache(tmp_path / "cut", module, 5, {})
    for name, array in cache.shards[0].arrays.items():
        array[:] = whole.shards[0].arrays[name]
    cache.shards[0].marks[3] = 0
    cache.get(7)["log_probs"][0] += 1  # the mark is there, the rows are not those it was made of
    again = topk.TopCache(tmp_path / "cut", module, 5, {})
    assert sorted(np.flatnonzero(again.shards[0].marks == 0)) == [3, 7]
    again.build(live, CPU, lambda done: None, moved)
    again.finish()
    assert [(tmp_path / "cut" / n).read_bytes() for n in FILES] == [
        (tmp_path / "whole" / n).read_bytes() for n in FILES
    ]


def test_a_foreign_sentence_is_refused_and_a_changed_byte_is_mended(tmp_path, module, live, caplog):
    cache = built(tmp_path, module, live)
    with pytest.raises(KeyError, match="10000"):
        cache.read({"ids": torch.tensor([10000]), "mask": torch.ones(1, 3, dtype=torch.bool)})
    content = bytearray((tmp_path / "ids.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "ids.npy").write_bytes(content)
    assert not topk.TopCache(tmp_path, module, 5, {}).complete and "ids.npy" in caplog.text
    content[-1] ^= 1
    built(tmp_path, module, live)
    assert (tmp_path / "ids.npy").read_bytes() == content
