"""What networks write behind prompts: a student for itself (strategy=on_policy), a teacher for its student (sequence_kd)."""

import json
import shutil
from functools import lru_cache

import numpy as np
import pytest
import torch

from kdrun.domains.language.prompts import answered, prompts
from kdrun.domains.language.rows import packed, pieces, separate
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.domains.language.tokens import trained
from kdrun.domains.load import load_data
from kdrun.job.compose import compose
from kdrun.lab.stages.base import Result
from kdrun.learning import seeds
from kdrun.learning.backend import Backend
from kdrun.learning.device import resolve
from kdrun.learning.report import Interrupted
from kdrun.learning.rollouts import Rollouts
from kdrun.learning.step import train_step
from kdrun.learning.teacher import FrozenTeacher
from kdrun.networks.build import build_network
from kdrun.objectives.minillm import minillm
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast, supervised
from kdrun.strategies.on_policy import OnPolicy
from kdrun.strategies.vanilla import Vanilla
from kdrun.targets import build

from .stages import Silent, make_lab
from .test_resume import same

pytest.importorskip("transformers")
LLAMA = "{model_type: llama, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, initializer_range: 0.3}"
WORDS = (
    "model=lm_small", "teacher=lm_w32", "student=lm_w32", f"teacher.network.config={LLAMA}", f"student.network.config={LLAMA}", "data.limit.train=60",
    "data.limit.val=10", "data.limit.test=10", "data.language.vocabulary=300", "data.language.max_length=48", "trainer.epochs=2", "trainer.batch_size=8",
    "objective=jsd", "teacher.trainer.epochs=10", "teacher.trainer.batch_size=4", "teacher.trainer.optimizer.lr=0.02", "tracker=none", "seed=0", "hardware=cpu",
)  # fmt: skip
OPTIONS = {"prompt": 0.3, "temperature": 1.0}


@lru_cache
def cell(*words):
    config = compose([*WORDS, *words]).cells[0]
    return {**config, "hardware": resolve(config["hardware"])}


def made(*words):
    """(data module, its task, a network, the first training batch)."""
    config = cell(*words)
    module = load_data(config["data"], config["paths"])
    task = module.task()
    task.prepare(frozenset({"student_logits", "teacher_logits"}))
    network = build_network(config["student"]["network"], module.spec, 0).eval()
    return module, task, network, next(iter(module.train_loader(8, 0)))


def documents(batch):
    """[(tokens, places of the row whose next token counts)] of each document of a batch, by a loop over its positions."""
    found, numbers = [], batch["inputs"]["attention_mask"].long()
    for row in range(len(numbers)):
        for number in numbers[row].unique().tolist():
            if number:
                places = (numbers[row] == number).nonzero().flatten().tolist()
                last = [batch["targets"][row, places[-1]].item()] if batch["mask"][row, places[-1]] else []
                tokens = batch["inputs"]["input_ids"][row, places].tolist() + last
                found.append((tokens, [place for place in range(len(places)) if batch["mask"][row, places[place]]]))
    return found


def test_prompts_are_the_first_part_of_texts_and_all_before_the_last_answer_of_chats(tmp_path):
    tokenizer = trained(made_corpus(60).documents, 300, tmp_path)
    texts = list(pieces(range(6), made_corpus(40).documents[:6], tokenizer, 64)[0])
    for samples in (separate(texts, 0), packed(texts, 128, 0)):
        begun = prompts(samples, np.arange(len(samples)), 0.25, chats=False)
        alike = sorted(([*piece.ids[: max(round(0.25 * len(piece.ids)), 1)]], len(piece.ids)) for piece in texts)
        assert sorted(([*prompt.ids], len(prompt.ids) + prompt.room) for row in begun for prompt in row) == alike
        again = answered(samples, np.arange(len(samples)), begun, [[[7, 8] for _ in row] for row in begun])
        assert int((again.bytes.flat == 0).sum()) == int((again.bytes.flat >= 0).sum()) == 2 * len(texts)
    chat = [("user", "Who?"), ("assistant", "Ada."), ("user", "Where?"), ("assistant", "By the river.")]
    (row,) = pieces([0], [tuple(chat)], tokenizer, 200)[0]
    ((prompt,),) = prompts(separate([row], 0), np.arange(1), 0.25, chats=True)
    assert prompt.ids == tokenizer.prompt(chat[:3])
    assert tokenizer.made.decode(row.ids[len(prompt.ids) :][: prompt.room]) == "By the river.<|im_end|>"


@pytest.mark.parametrize("pack", [True, False])
def test_what_a_student_writes_is_what_whole_passes_without_a_cache_write(pack):
    module, task, network, batch = made(f"data.language.pack={pack}")
    own = task.own_samples(network, batch, torch.Generator(), prompt=0.3, temperature=0.0)
    assert own["ids"].tolist() == batch["ids"].tolist() and own["size"] == int(own["mask"].sum())
    before, after = documents(batch), documents(own)
    assert len(before) == len(after) > (8 if pack else 7)
    for (text, _), (tokens, counted) in zip(before, after, strict=True):
        begun = min(max(round(0.3 * len(text)), 1), len(text) - 1)
        row = text[:begun]
        assert counted == list(range(begun - 1, len(tokens) - 1))  # all that was written, and nothing of the prompt
        while len(row) < len(text) and (len(row) == begun or row[-1] not in module.tokenizer.ends):
            with torch.no_grad():
                row.append(int(network(torch.tensor([row]))[0, -1].argmax()))
        assert tokens == row


def test_gradient_is_that_of_single_texts():
    _, task, student, batch = made()
    teacher = build_network(cell()["teacher"]["network"], task.spec, 1)
    rollouts = Rollouts(task, 0, share=1.0, **OPTIONS)
    backend = Backend(task, student, accumulate=2)
    backend.trained, backend.rollout = [list(student.parameters())], rollouts
    objective = build_objective({"ce": {"weight": 1.0}, "kl_reverse": {"weight": 1.0, "temperature": 2.0}})
    train_step(student, FrozenTeacher(teacher, task, ""), objective, batch, None, 3, backend)
    found = [parameter.grad.clone() for parameter in student.parameters()]
    generator = torch.Generator().manual_seed(seeds.derive(0, "rollout", 3, 0))
    written = documents(task.own_samples(student, batch, generator, **OPTIONS))
    losses = []
    for tokens, counted in written:
        one, other = (network(torch.tensor([tokens]))[0, counted] / 2 for network in (student, teacher))
        losses.append((one.softmax(-1) * (one.log_softmax(-1) - other.log_softmax(-1))).sum(-1) * 4)
    student.zero_grad()
    torch.cat(losses).mean().backward()
    for gradient, parameter in zip(found, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4)
    assert rollouts.counts["batches"] == 1 and rollouts.counts["tokens"] == sum(len(each) for _, each in written)


def test_a_share_of_batches_is_the_student_s_own_and_others_are_as_they_were():
    _, task, student, batch = made()
    rollouts = Rollouts(task, 5, share=0.25, **OPTIONS)
    found = [rollouts(student.train(), {**batch, "step": step}) for step in range(40)]
    own = [each for each in found if "labelled" in each]
    assert 4 <= len(own) == rollouts.counts["batches"] <= 18 and student.training
    assert all(torch.equal(each["targets"], batch["targets"]) for each in found if "labelled" not in each)
    assert len({tuple(each["targets"].flatten().tolist()) for each in own}) == len(own)


@pytest.mark.parametrize(
    ("replay", "early", "late"), [("decreasing", 1.0, 0.0), ("increasing", 0.0, 1.0), ("constant", 0.5, 0.5)]
)
def test_once_the_store_is_full_own_batches_come_from_it_by_the_schedule(replay, early, late):
    """A slow reference of the store: a list of all that was written, of which the last rows are drawn."""
    _, task, student, batch = made()
    count, steps = len(batch["ids"]), 40
    rollouts = Rollouts(task, 5, share=0.8, replay=replay, capacity=count + 1, steps=steps, **OPTIONS)
    written, found = [], {"new": [], "again": []}
    for step in range(steps):
        drawn = seeds.derive(5, "own batch", step) / 2**63
        before = rollouts.counts["samples"]
        made_now = rollouts(student, {**batch, "step": step})
        passed = {"decreasing": 1 - step / steps, "increasing": step / steps, "constant": 0.5}[replay]
        if drawn >= 0.8:
            assert "labelled" not in made_now
            continue
        new = drawn < 0.8 * passed or len(written) * count < count + 1
        assert (rollouts.counts["samples"] > before) == new
        texts = [tokens for tokens, _ in documents(made_now)]
        if new:
            written.append(texts)
        else:
            known = [text for each in written[-2:] for text in each]
            assert all(text in known for text in texts) and not made_now["mixture"]
        found["new" if new else "again"].append(step)
    assert rollouts.counts["replayed"] == len(found["again"]) > 0
    halves = [sum(step < steps / 2 for step in found[kind]) / len(found[kind]) for kind in ("new", "again")]
    assert (halves[0] > halves[1]) == (early > late) or early == late


def test_several_steps_are_on_the_same_texts_with_the_probabilities_of_their_drawing():
    _, task, student, batch = made()
    rollouts = Rollouts(task, 5, share=0.5, updates=3, **OPTIONS)
    own = []
    for first in range(0, 18, 3):
        group = [rollouts(student, {**batch, "step": first + more}) for more in range(3)]
        assert len({"labelled" in each for each in group}) == 1, "all three of a kind"
        if "labelled" not in group[0]:
            continue
        assert all(torch.equal(each["targets"], group[0]["targets"]) for each in group)
        with torch.no_grad():
            logs = task.predict(student, group[0]["inputs"]).dense().log_softmax(-1)
        there = logs.gather(-1, group[0]["targets"][..., None])[..., 0]
        torch.testing.assert_close(group[2]["drawn_log_probs"][group[0]["mask"]], there[group[0]["mask"]])
        own.append(group)
    assert 0 < len(own) == rollouts.counts["batches"] < 6


def test_tokens_of_a_mixture_are_those_of_whole_passes_of_both_networks():
    _, task, student, batch = made()
    teacher = build_network(cell()["teacher"]["network"], task.spec, 1).eval()
    own = task.own_samples(student, batch, torch.Generator(), prompt=0.3, temperature=0.0, beside=(teacher, 0.4))
    assert own["mixture"] == 0.4
    differing = 0
    for tokens, counted in documents(own):
        with torch.no_grad():
            q, p = (network(torch.tensor([tokens]))[0].softmax(-1) for network in (student, teacher))
        likeliest = (0.4 * p + 0.6 * q).argmax(-1)
        assert [tokens[place + 1] for place in counted] == likeliest[counted].tolist()
        differing += int((likeliest != q.argmax(-1))[counted].sum())
    assert differing


def test_the_share_rises_where_validation_does_not_get_better():
    rollouts = Rollouts(None, 0, share=0.0, raised_by=0.4)
    shares = []
    for loss in (3.0, 2.5, 2.5, 2.6, 2.4, 2.9, 3.0):
        rollouts.judged(loss)
        shares.append(round(rollouts.share, 6))
    assert shares == [0.0, 0.0, 0.4, 0.8, 0.8, 1.0, 1.0]
    other = Rollouts(None, 0, share=0.0, raised_by=0.4)
    other.resume(rollouts.state())
    assert other.state() == rollouts.state() and rollouts.state()["before"] == 3.0


def test_minillm_learns_from_what_was_drawn_of_the_mixture():
    """The gradient of a step is that of the loss on whole passes over each text that was written."""
    _, task, student, batch = made()
    teacher = build_network(cell()["teacher"]["network"], task.spec, 1).eval()
    backend = Backend(task, student, accumulate=2)
    backend.trained = [list(student.parameters())]
    backend.rollout = Rollouts(task, 0, share=1.0, teacher_mix=0.2, **OPTIONS)
    train_step(student, FrozenTeacher(teacher, task, ""), build_objective({"minillm": {}}), batch, None, 3, backend)
    found = [parameter.grad.clone() for parameter in student.parameters()]
    generator = torch.Generator().manual_seed(seeds.derive(0, "rollout", 3, 0))
    losses = []
    for tokens, counted in documents(task.own_samples(student, batch, generator, **OPTIONS, beside=(teacher, 0.2))):
        one, other = (network(torch.tensor([tokens]))[:, counted] for network in (student, teacher))
        losses.append(minillm(one, other, written=torch.tensor([tokens])[:, 1:][:, counted], mixture=0.2)[0])
    student.zero_grad()
    torch.cat(losses).mean().backward()
    for gradient, parameter in zip(found, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4)


def test_on_bfloat16_weights_keep_their_gradients():
    _, task, student, batch = made()
    teacher = FrozenTeacher(build_network(cell()["teacher"]["network"], task.spec, 1), task, "")
    backend = Backend(task, student)
    backend.trained, backend.rollout = [list(student.parameters())], Rollouts(task, 0, share=1.0, **OPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        train_step(student, teacher, build_objective({"kd": {}}), batch, None, 0, backend)
    assert all(parameter.grad.abs().sum() > 0 for parameter in student.parameters())


class Collecting:
    """A lab whose stages are finished as soon as they are asked for."""

    def get(self, stage):
        self.last = stage
        return Result("done", stage, {})


def test_without_own_batches_it_is_plain_distillation(tmp_path):
    lab, parts = make_lab(tmp_path), []
    for strategy in (Vanilla(), OnPolicy(student_share=0.0), OnPolicy(student_share=0.5)):
        taken = Collecting()
        strategy.run(taken, Cast(cell()))
        parts.append(taken.last.settled(lab.workshop).parts(lab.context))
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"raised_by": 0.3, "teacher_mix": 0.2},
        {"replay": "decreasing", "capacity": 4, "student_share": 0.7},
        {"updates": 2, "student_share": 1.0},
    ],
    ids=["mixture", "replay", "updates"],
)
def test_stop_and_resume_equals_never_stopped(tmp_path, options):
    clipped = ["objective=minillm", "objective.minillm.clip=0.2", "objective.ce.weight=0", "trainer.epochs=3"]
    words = clipped if "updates" in options else []
    cast, strategy = (
        Cast(cell("student.network.config.attention_dropout=0.1", *words)),
        OnPolicy(**{"student_share": 0.4, **options}),
    )
    make_lab(tmp_path / "a").get(supervised(cast.teacher))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    unbroken = strategy.run(make_lab(tmp_path / "a"), cast)
    for stop_at in (2, 3):
        with pytest.raises(Interrupted):
            strategy.run(make_lab(tmp_path / "b", Silent(stop_at)), cast)
    resumed = strategy.run(make_lab(tmp_path / "b"), cast)
    same(unbroken, resumed)
    assert resumed.record["cost"]["tries"] == 3
    assert resumed.record["rollouts"] == unbroken.record["rollouts"] and unbroken.record["rollouts"]["batches"] > 2


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["model=lm_small", "strategy.student_share=1.5"], "a share from 0 to 1"),
        (["model=lm_small", "strategy.student_share=1"], "objective.ce would do nothing"),
        (["model=lm_small", "objective=jsd", "teacher.source=cached"], "what the student will write is not known"),
        (["model=lm_small", "objective={dkd: {weight: 1.0}}"], "has no labels"),
        (["model=mlp_ladder"], "data.task=classification"),
        (["model=lm_small", "objective=minillm", "strategy.temperature=0.7"], "drawn at 1"),
        (["model=lm_small", "strategy.teacher_mix=0.2", "strategy.temperature=0"], "drawn at 1"),
        (["model=lm_small", "strategy.teacher_mix=0.2", "teacher.system=x"], "two prompts"),
        (["model=lm_small", "strategy.replay=decreasing", "objective=minillm"], "strategy.updates takes several steps"),
        (["model=lm_small", "strategy.replay=decreasing", "strategy.updates=2"], "leave one of them out"),
        (["model=lm_small", "strategy.replay=falling"], "all: none, constant, increasing, decreasing"),
    ],
)
def test_what_does_not_go_is_refused(words, lines):
    with pytest.raises(UserError, match=lines):
        compose(["strategy=on_policy", "seed=0", *words])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_a_teacher_writes_is_learned_with_its_prompts(temperature):
    module, _, network, _ = made()
    task = module.task({"prompt": 0.3, "temperature": temperature, "seed": 1})
    samples = module.samples("train")
    last = np.arange(len(samples) - 5, len(samples))  # of short texts, several in a row
    rows, again = (task.targets_of(network, samples, last) for _ in range(2))
    assert rows == again and [row["id"] for row in rows] == samples.ids[-5:].tolist()
    begun = prompts(samples, last, 0.3, chats=False)
    if not temperature:  # in any order, they are what the network itself finds likeliest
        answers = task.targets_of(network, samples, last[3:4])
        assert answers[0]["tokens"] == rows[3]["tokens"]
    rows[1]["tokens"] = [None for _ in rows[1]["tokens"]]  # filtered
    several = next(row for row in (rows[0], *rows[2:]) if len(row["tokens"]) > 1)
    several["tokens"][0] = None
    taught = module.relabelled(json.loads(json.dumps(rows)))
    learned = taught.samples("train")
    assert learned.ids.tolist() == [row["id"] for row in (rows[0], *rows[2:])] and taught.spec.sizes["train"] == 4
    assert torch.equal(taught.samples("val").ids, module.samples("val").ids)
    expected = [
        [[*prompt.ids, *answer] for prompt, answer in zip(of_row, row["tokens"], strict=True) if answer is not None]
        for of_row, row in zip(begun, rows, strict=True)
    ]
    texts = [text for row in expected for text in row]
    batch = learned.batch(np.arange(4))
    assert [tokens for tokens, _ in documents(batch)] == texts
    assert batch["size"] == sum(len(text) - 1 for text in texts)


def test_filters_and_kept_layers_of_a_teacher_reach_the_student(tmp_path):
    words = ("strategy=sequence_kd", "strategy.shortest=1", "strategy.temperature=1.0", "strategy.start=teacher")
    lab = make_lab(tmp_path)
    config = cell(*words, "trainer.epochs=1")
    student = build(config["strategy"], "strategy").run(lab, Cast(config))
    made_of = student.stage.generated
    assert made_of.record["generated"]["rows"] > 0 and set(made_of.record["generated"]["left_out"]) <= {"empty"}
    assert student.stage.start.fingerprint == student.stage.generated.stage.teacher.fingerprint
    with pytest.raises(UserError, match="every one of"):
        changed = {**config["strategy"], "shortest": 1000}
        build(changed, "strategy").run(lab, Cast({**config, "strategy": changed}))
