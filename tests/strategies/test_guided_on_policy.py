"""strategy=guided_on_policy: what the teacher reads of each answer of its student, and what is refused."""

import json

import pytest
import torch

from kdrun.domains.load import load_data
from kdrun.job.compose import compose
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.strategies.guided_on_policy import GuidedOnPolicy
from kdrun.strategies.unused import stages_of

pytest.importorskip("transformers")
WORDS = (
    "model=gui_agent", "strategy=guided_on_policy", "teacher=lm_w32", "student=lm_w32", "data.train=40", "data.val=8", "data.test=10",
    "tracker=none", "seed=0", "hardware=cpu",
)  # fmt: skip


def cell(*words):
    return compose([*WORDS, *words]).cells[0]


def read(config, guidance):
    """(training batch, what the teacher reads of each of its rows, forms) under a guidance."""
    strategy = GuidedOnPolicy(guidance=guidance)
    learned = load_data(config["data"], config["paths"])
    seen = load_data(strategy.guided(Cast(config)).teacher.data, config["paths"])
    batch = next(iter(learned.train_loader(8, 0)))
    view = seen.view_of(learned)
    rows = view.seen(batch)
    texts = [seen.tokenizer.made.decode(ids) for ids in rows["inputs"]["input_ids"]]
    known = [learned.source.told(int(number) >> 16) for number in batch["ids"]]
    return learned, seen, batch, texts, known


def test_the_teacher_reads_the_valid_action_nearest_to_what_was_written():
    learned, seen, batch, texts, known = read(cell(), "matched")
    for text, form, row in zip(texts, known, range(len(known)), strict=True):
        answer = learned.tokenizer.made.decode(batch["targets"][row][batch["mask"][row]], skip_special_tokens=True)
        assert f"hint: {form.matched(answer)['valid_matched']}" in text
    several = next(form for form in learned.source.known if len(form.valid()) > 1)
    number = int(learned.source.ids[learned.source.known.index(several)])
    view = seen.view_of(learned)
    for action in several.valid():
        written = learned.tokenizer.encode([several.answer(action)])[0][0]
        counted = torch.ones(len(written), dtype=torch.bool).numpy()
        ids, _ = view.turns(*view._read(number, counted, written))
        assert f"hint: {json.dumps(action.to_json())}" in learned.tokenizer.made.decode(ids)


def test_a_teacher_with_a_hint_is_judged_behind_the_prompts_of_its_student_too():
    learned, seen, *_ = read(cell(), "all")
    assert set(seen.extra_tests) - set(learned.extra_tests) == {"student_prompt"}
    own, without, student = (
        each.samples(name) for each, name in ((seen, "test"), (seen, "student_prompt"), (learned, "test"))
    )
    assert without.tokens.flat.tolist() == student.tokens.flat.tolist() != own.tokens.flat.tolist()
    assert seen.identities("student_prompt").tolist() == learned.identities("test").tolist()


@pytest.mark.parametrize(("guidance", "column"), [("single", "valid_one"), ("all", "valid_all")])
def test_other_guidance_is_a_column_of_the_row(guidance, column):
    learned, _, batch, texts, _ = read(cell(), guidance)
    for text, number in zip(texts, batch["ids"], strict=True):
        assert f"hint: {learned.source.columns_of([int(number) >> 16])[column][0]}" in text
    assert all("hint" not in content for chat in learned.source.documents for _, content in chat)


def test_stages_are_labels_then_own_answers_then_rewards():
    stages = stages_of(
        cell("strategy.rewards=true", "strategy.reward_lr=1e-4", "strategy.reward_epochs=2", "strategy.controls=[]")
    )
    alone, teacher, guided, rewarded = stages
    assert "prompt" in teacher.data["language"] and "prompt" not in alone.data["language"]
    assert guided.rollout["share"] == 1.0 and guided.sees and guided.start.stage.role == alone.role
    assert rewarded.rollout["reward"]["_target_"].endswith("gui") and rewarded.trainer["epochs"] == 2
    assert rewarded.start.stage.rollout == guided.rollout and rewarded.teacher is None
    assert rewarded.behind is guided.teacher  # what the run is shown beside
    held = stages_of(cell("strategy.rewards=true", "strategy.kl=0.1", "strategy.controls=[]"))[-1]
    assert held.teacher is held.start and held.behind.stage.role == "teacher"
    unguided = stages_of(cell("strategy.guidance=none", "strategy.controls=[]"))
    assert not unguided[-1].sees and "prompt" not in unguided[1].data["language"]


def test_labels_go_on_from_the_same_weights_at_the_same_rates():
    words = ("strategy.rewards=true", "strategy.epochs=3", "strategy.lr=1e-4", "strategy.reward_lr=1e-5")
    alone, _, guided, rewarded, _, first, second = stages_of(cell(*words, "strategy.controls=[untaught]"))
    assert first.start.stage == guided.start.stage == alone and second.start.stage == first
    for taught, labelled in ((guided, first), (rewarded, second)):
        assert labelled.trainer == taught.trainer and labelled.objective == alone.objective and not labelled.rollout
    begun = stages_of(
        cell("strategy=grpo", "strategy.start=taught", "strategy.lr=1e-4", "strategy.controls=[untaught]")
    )
    improved, labelled = begun[2], begun[-1]
    assert labelled.start.stage == improved.start.stage == begun[1] and labelled.trainer == improved.trainer


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["strategy.guidance=matches"], "closest: matched"),
        (["teacher.prompt='{prompt} x'"], "strategy.guidance and strategy.hint"),
        (["strategy.hint='hint'"], "it has no"),
        (["teacher.source=cached"], "is not known before"),
        (["strategy.rewards=true", "~reward"], "needs a reward"),
        (["strategy.rewards=true", "strategy.group=1"], "2 or more"),
    ],
)
def test_what_does_not_go_is_refused(words, lines):
    with pytest.raises(UserError, match=lines):
        cell(*words)
