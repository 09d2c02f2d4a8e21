"""Vision-language batches in the learning room: accumulation, ranks, terms over image slots, and cached teachers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from vision_support import conversations, mixed, module_of, question, tiny_tower

from kdrun.domains.vision_language.task import VisionLanguage
from kdrun.learning.backend import TakingPart
from kdrun.learning.learner import LearnerModule
from kdrun.learning.microbatches import micro_batches
from kdrun.learning.positions import CachedPositions, PositionCache, cache_bytes, taught
from kdrun.learning.step import values_of
from kdrun.learning.teacher import FrozenTeacher
from kdrun.learning.teaching import moved
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError

CPU = torch.device("cpu")
LLAVA = {
    "ce": {"weight": 1.0}, "kd": {"weight": 1.0, "temperature": 1.0}, "kd_visual": {"weight": 1.0},
    "relation": {"weight": 0.5},
}  # fmt: skip


class Mean(nn.Module):
    """Logits of a position from its token and the mean of all before it; image slots hold the images' features."""

    def __init__(self, spec, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.tokens, self.image_token = nn.Embedding(spec.vocabulary, 12), spec.image_token
            self.projector, self.head = nn.Linear(spec.feature_width, 12), nn.Linear(24, spec.vocabulary)

    def forward(self, input_ids, attention_mask, image_features=None):
        x = self.tokens(input_ids)
        if image_features is not None:
            slots = (input_ids == self.image_token)[..., None].expand_as(x)
            x = x.masked_scatter(slots, self.projector(image_features))
        real = attention_mask[..., None].float()
        mean = (x * real).cumsum(1) / real.cumsum(1).clamp(min=1)
        return self.head(torch.cat([x, mean], -1))


@pytest.fixture
def module(tmp_path, monkeypatch):
    tiny_tower(monkeypatch)
    return module_of(tmp_path, conversations(mixed(40), [question(900 + n) for n in range(6)], [question(950)]))


def batches(module, size, world=1):
    return [next(iter(module.train_loader(size, seed=0, rank=rank, world=world))) for rank in range(world)]


def gradients(module, chunks, sizes, objective, student=None):
    task, student, teacher = VisionLanguage(module), student or Mean(module.spec, 0), Mean(module.spec, 1)
    student.zero_grad()
    values = {}
    for chunk in chunks:
        with torch.no_grad():
            told = task.predict(teacher, chunk["inputs"])
        total, raw = objective(task.tensors(chunk, task.predict(student, chunk["inputs"]), told), sizes)
        total.backward()
        for name, value in raw.items():
            values[name] = values.get(name, 0.0) + float(value.detach())
    return values, [p.grad for p in student.parameters() if p.grad is not None]


@pytest.mark.parametrize("parts", [2, 3, 7, 20])
def test_accumulation_is_exact_with_any_number_of_images_in_a_row(module, parts):
    (batch,) = batches(module, 20)
    images = batch["visual_mask"].sum(1) // module.spec.image_tokens
    assert set(images.tolist()) == {0, 1, 2, 3}
    objective = build_objective(LLAVA)
    whole, split = (gradients(module, micro_batches(batch, count), batch["sizes"], objective) for count in (1, parts))
    assert set(whole[0]) == set(LLAVA)
    for name, value in whole[0].items():
        assert split[0][name] == pytest.approx(value, rel=1e-5)
    for one, other in zip(whole[1], split[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_ranks_together_are_one_rank(module):
    objective = build_objective(LLAVA)
    (whole,) = batches(module, 20)
    parts = batches(module, 20, world=2)
    assert parts[0]["sizes"] == parts[1]["sizes"] == whole["sizes"]
    single = gradients(module, [whole], whole["sizes"], objective)
    double = gradients(module, parts, whole["sizes"], objective)
    for one, other in zip(single[1], double[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_batch_without_images_has_no_terms_over_them(tmp_path, monkeypatch):
    tiny_tower(monkeypatch)
    module = module_of(tmp_path, conversations([question(n, images=n % 2) for n in range(20)], [question(900)]))
    batch = module.inputs(torch.tensor([0, 2, 4, 6]))
    assert "image_features" not in batch["inputs"] and batch["sizes"]["visual_mask"] == batch["sizes"]["images"] == 0
    values, _ = gradients(
        module, [batch], batch["sizes"], build_objective({k: LLAVA[k] for k in ("ce", "kd_visual", "relation")})
    )
    assert set(values) == {"ce"}
    raw = {"ce": torch.tensor(1.5), "kd": torch.tensor(0.5)}
    assert [float(value) for value in values_of(build_objective(LLAVA), raw, raw["ce"])] == [1.5, 0.5, 0.0, 0.0]


def test_a_term_is_looked_at_where_it_has_positions(module):
    """A part of a batch may be text alone though the batch has images: a term that is 0 there is not without effect."""
    texts, images = (
        module.inputs(torch.tensor([n for n in range(40) if (n % 5 == 1) is text][:4])) for text in (True, False)
    )
    objective = build_objective(LLAVA)
    learner = LearnerModule(Mean(module.spec, 0), VisionLanguage(module), objective, teacher=frozen(module))
    for batch, seen in ((texts, {"ce", "kd"}), (images, set(LLAVA))):
        prediction, told = learner.task.predict(learner.student, batch["inputs"]), learner.teacher.outputs(batch)
        _, raw = objective(learner.task.tensors(batch, prediction, told), images["sizes"])
        assert set(raw) == set(LLAVA)
        learner.backend.check(objective, raw, batch)
        assert set(learner.first_step) == seen


def test_all_parameters_take_part_in_a_loss_that_only_some_are_in():
    used, other = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2, 2))
    loss = used.square().sum()
    joined = TakingPart.apply(loss, used, other)
    assert torch.equal(joined, loss)
    (2 * joined).backward()
    assert torch.equal(used.grad, 4 * used) and torch.equal(other.grad, torch.zeros(2, 2))


def test_a_term_over_images_needs_a_task_that_has_them():
    tensors = {
        "student_logits": torch.randn(4, 3),
        "teacher_logits": torch.randn(4, 3),
        "targets": torch.arange(3).repeat(2)[:4],
    }
    with pytest.raises(UserError, match="kd_visual is over visual_mask, which this task does not have"):
        build_objective({"kd_visual": {"weight": 1.0}})(tensors, 4)


def frozen(module):
    return FrozenTeacher(Mean(module.spec, 1), VisionLanguage(module), "f")


def built(folder, module):
    cache = PositionCache(folder, module, {})
    cache.build(frozen(module), CPU, lambda done: None, moved)
    cache.finish()
    return cache


def test_a_cached_teacher_says_where_it_teaches_what_the_live_one_says(tmp_path, module):
    cache = built(tmp_path / "c", module)
    assert sum(path.stat().st_size for path in (tmp_path / "c").glob("*.npy")) == pytest.approx(
        cache_bytes(module), abs=300
    )
    (batch,) = batches(module, 16)
    live, read = frozen(module).outputs(batch).logits, CachedPositions(cache, "f").outputs(batch).logits
    where = taught(batch)
    torch.testing.assert_close(read[where], live[where], rtol=2e-3, atol=2e-3)
    assert not read[~where].any()
    assert cache.largest_error(frozen(module), CPU, 16, 0, moved) < 0.01


def test_the_likeliest_tokens_are_kept_where_a_teacher_teaches(tmp_path, module):
    """5 of the vocabulary at each position, images included: what a loss over k + 1 buckets asks for."""
    from kdrun.learning import topk

    live = topk.TopTeacher(frozen(module), 5)
    cache = topk.TopCache(tmp_path, module, 5, {})
    cache.build(live, CPU, lambda done: None, moved)
    cache.finish()
    assert sum(path.stat().st_size for path in tmp_path.glob("*.npy")) == pytest.approx(
        topk.cache_bytes(module, 5), abs=400
    )
    assert topk.cache_size(module, {"kd_topk": {"weight": 1.0, "k": 5}}) == topk.cache_bytes(module, 5)
    (batch,) = batches(module, 16)
    read, said, where = topk.CachedTop(cache, "t").outputs(batch), live.outputs(batch), taught(batch)
    assert (where & ~batch["mask"]).any()
    torch.testing.assert_close(
        read.features["top_log_probs"][where], said.features["top_log_probs"][where], rtol=2e-3, atol=2e-3
    )
    assert not read.features["top_log_probs"][~where].any()
    assert cache.largest_error(live, CPU, 16, 0, moved) < 0.01
    student = VisionLanguage(module).predict(Mean(module.spec, 2), batch["inputs"])
    objective, tensors = (
        build_objective({"kd_topk": {"weight": 1.0, "k": 5}}),
        VisionLanguage(module).tensors(batch, student, read),
    )
    live_tensors = VisionLanguage(module).tensors(batch, student, said)
    assert float(objective(tensors, batch["sizes"])[0]) == pytest.approx(
        float(objective(live_tensors, batch["sizes"])[0]), rel=1e-3
    )


def test_a_build_that_was_cut_goes_on_and_damage_is_seen(tmp_path, module):
    built(tmp_path / "whole", module)
    cut = built(tmp_path / "cut", module)
    (tmp_path / "cut" / "manifest.json").unlink()
    cut.shards[0].marks[5] = 0
    cut.get(9)["logits"][0] += 1
    again = PositionCache(tmp_path / "cut", module, {})
    assert [row for row in range(40) if not again.shards[0].marks[row]] == [5, 9]
    built(tmp_path / "cut", module)
    for name in ("logits.npy", "marks.npy"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with open(tmp_path / "cut" / "logits.npy", "r+b") as file:
        file.seek(400)
        file.write(b"\x01\x02")
    assert not PositionCache(tmp_path / "cut", module, {}).complete
    built(tmp_path / "cut", module)
    for name in ("logits.npy", "marks.npy"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_asked_of_hidden_states_is_not_cached(module):
    """Losses that never hold all logits compute them from states before the output layer, which a cache has not."""
    from kdrun.learning.topk import cache_size

    assert cache_size(module, LLAVA) == cache_bytes(module)
    assert cache_size(module, {"vocabulary_ce_kd": {"weight": 1.0}}) is None
    assert cache_size(module, {**LLAVA, "relation": {"weight": 0.5, "of": "hidden"}}) is None
