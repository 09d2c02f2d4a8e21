"""strategy=grpo: groups of texts, rewards, the clipped objective and how far a policy may go."""

import math
import re
import shutil
from functools import lru_cache

import pytest
import torch

from kdrun.domains.load import load_data
from kdrun.job.compose import compose
from kdrun.learning import seeds
from kdrun.learning.backend import Backend
from kdrun.learning.device import resolve
from kdrun.learning.firststep import NoEffect
from kdrun.learning.policy import PolicyRollouts, Reward, advantages
from kdrun.learning.report import Interrupted
from kdrun.learning.step import train_step
from kdrun.learning.teacher import FrozenTeacher
from kdrun.networks.build import build_network
from kdrun.objectives.grpo import grpo
from kdrun.objectives.policy_kl import policy_kl
from kdrun.objectives.terms import build_objective
from kdrun.problems import UserError
from kdrun.strategies.cast import Cast
from kdrun.targets import build

from .stages import Silent, make_lab
from .test_resume import same
from .test_rollouts import LLAMA

pytest.importorskip("transformers")
WORDS = (
    "model=lm_answers", "student=lm_w32", f"teacher.network.config={LLAMA}", f"student.network.config={LLAMA}", "strategy=grpo", "data.samples=120",
    "data.largest=9", "data.terms=3", "data.language.max_new=4", "trainer.epochs=2", "trainer.batch_size=24", "tracker=none", "seed=0", "hardware=cpu",
    "strategy.group=4", "reward._target_=tests.learning.test_policy.length", "targets.tests=true",
)  # fmt: skip


def length(texts):
    """A reward that random weights earn, too."""
    return [float(len(text)) for text in texts]


@lru_cache
def cell(*words):
    job = compose([*WORDS, *words])
    return {**job.cells[0], "hardware": resolve(job.cells[0]["hardware"])}


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv("KDRUN_TARGETS", "tests")


def made():
    """(task, a student, another network, the first training batch)."""
    config = cell()
    module = load_data(config["data"], config["paths"])
    task = module.task()
    task.prepare(frozenset({"student_logits", "teacher_logits"}))
    student, other = (build_network(config["student"]["network"], module.spec, seed).eval() for seed in (0, 1))
    return task, student, other, next(iter(module.train_loader(8, 0)))


def test_advantages_are_those_of_the_paper_and_of_equal_rewards_exactly_0():
    rewards = torch.tensor([[1.0, 0.0, 0.5, 0.25], [0.1, 0.1, 0.1, 0.1]], dtype=torch.float64)
    found = advantages(rewards)
    row = rewards[0].tolist()
    mean = sum(row) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / 3)
    assert found[0].tolist() == pytest.approx([(value - mean) / (deviation + 1e-4) for value in row], rel=1e-12)
    assert found[1].tolist() == [0.0] * 4


def test_values_and_gradients_are_those_of_a_loop_over_tokens():
    draw = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(40, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    tokens = torch.randint(7, (40,), generator=draw)
    gained, weights = (torch.randn(40, generator=draw, dtype=torch.float64) for _ in range(2))
    old = (logits.detach() / 0.7).log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    old += 0.4 * torch.randn(40, generator=draw, dtype=torch.float64)
    clipped, expected, distance = 0, [], []
    for n in range(40):
        p, r = ((each[n] / 0.7).softmax(-1)[tokens[n]] for each in (logits, reference))
        ratio = p / old[n].exp()
        bounded = min(max(ratio, torch.tensor(0.8, dtype=torch.float64)), torch.tensor(1.2, dtype=torch.float64))
        clipped += bool(bounded * gained[n] < ratio * gained[n])
        expected.append(-weights[n] * min(ratio * gained[n], bounded * gained[n]))
        distance.append(weights[n] * (r / p - (r / p).log() - 1))
    found = grpo(logits, tokens, gained, weights, old, clip=0.2, temperature=0.7)
    assert 5 < clipped < 35
    torch.testing.assert_close(found, torch.stack(expected))
    apart = policy_kl(logits, reference, tokens, weights, temperature=0.7)
    torch.testing.assert_close(apart, torch.stack(distance))
    for one, other in ((found.sum(), sum(expected)), (apart.sum(), sum(distance))):
        slope, steepness = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (one, other))
        torch.testing.assert_close(slope, steepness)
    assert policy_kl(logits, logits.detach(), tokens, weights).abs().max() == 0
    first = grpo(logits, tokens, gained, weights)
    torch.testing.assert_close(first, -weights * gained)


@pytest.mark.parametrize("average", ["samples", "tokens"])
def test_gradient_of_a_step_is_that_of_single_texts(average):
    task, student, other, batch = made()
    options = {"group": 4, "prompt": 0.5, "temperature": 0.8}
    node = {"_target_": "tests.learning.test_policy.length"}
    rollouts = PolicyRollouts(task, 0, node, average=average, **options)
    backend = Backend(task, student, accumulate=3)
    backend.trained, backend.rollout = [list(student.parameters())], rollouts
    terms = {"grpo": {"weight": 1.0, "temperature": 0.8}, "policy_kl": {"weight": 0.5, "temperature": 0.8}}
    train_step(student, FrozenTeacher(other, task, ""), build_objective(terms), batch, None, 3, backend)
    found = [parameter.grad.clone() for parameter in student.parameters()]
    generator = torch.Generator().manual_seed(seeds.derive(0, "rollout", 3, 0))
    rows, columns = task.policy_samples(student, batch, generator, **options)
    assert len(rows["ids"]) == 4 * len(batch["ids"]) == len(columns["texts"]) and len(set(columns["prompts"][:4])) == 1
    gained = advantages(torch.tensor(length(columns["texts"])).reshape(-1, 4)).flatten()
    texts = []
    for row, advantage in enumerate(gained.tolist()):
        ids, counted = rows["inputs"]["input_ids"][row : row + 1], rows["mask"][row]
        p, r = ((network(ids)[0] / 0.8).log_softmax(-1)[counted] for network in (student, other))
        p, r = (each.gather(-1, rows["targets"][row][counted][:, None])[:, 0] for each in (p, r))
        ratio = torch.exp(p - p.detach())
        texts.append(-ratio * advantage + 0.5 * (torch.exp(r - p) - (r - p) - 1))
    loss = torch.cat(texts).mean() if average == "tokens" else torch.stack([text.mean() for text in texts]).mean()
    student.zero_grad()
    loss.backward()
    for gradient, parameter in zip(found, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-4)
    assert rollouts.counts["samples"] == len(texts) and rollouts.told()["reward"] == pytest.approx(
        sum(length(columns["texts"])) / len(texts)
    )
    assert rollouts.told() == {}


def test_texts_of_equal_rewards_teach_nothing_and_are_no_mistake():
    task, student, _, batch = made()
    rollouts = PolicyRollouts(
        task, 0, {"_target_": "kdrun.domains.language.rewards.exact_match"}, group=2, prompt=0.5, temperature=1.0
    )
    rollouts.reward = lambda columns: [0.3] * len(columns["texts"])
    backend = Backend(task, student)
    backend.trained, backend.rollout = [list(student.parameters())], rollouts
    values = train_step(student, None, build_objective({"grpo": {}}), batch, None, 0, backend)
    assert [float(value) for value in values] == [0.0, 0.0] and not backend.seen
    assert all(parameter.grad.abs().sum() == 0 for parameter in student.parameters() if parameter.grad is not None)


def test_stop_and_resume_equals_never_stopped(tmp_path):
    words = (
        "strategy.updates=3",
        "strategy.kl=0.1",
        "student.network.config.attention_dropout=0.1",
        "strategy.epochs=3",
    )
    config = cell(*words)
    strategy, cast = build(config["strategy"], "strategy"), Cast(config)
    strategy._begun(make_lab(tmp_path / "a"), cast)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    unbroken = strategy.run(make_lab(tmp_path / "a"), cast)
    for stop_at in (2, 2, 3):  # in the midst of steps on the same texts
        with pytest.raises(Interrupted):
            strategy.run(make_lab(tmp_path / "b", Silent(stop_at)), cast)
    resumed = strategy.run(make_lab(tmp_path / "b"), cast)
    same(unbroken, resumed)
    assert resumed.record["rollouts"] == unbroken.record["rollouts"] and resumed.record["cost"]["tries"] == 4
    assert 0 < unbroken.record["rollouts"]["samples"] <= unbroken.record["rollouts"]["tokens"]
    cost, trained = unbroken.record["cost"], strategy.group * unbroken.record["cost"]["samples"]
    assert cost["flops"]["student"] > 3 * unbroken.record["flops"] * trained  # each text is trained on, not each prompt


def equal(texts):
    return [0.5 for _ in texts]


def test_a_run_whose_rewards_never_differ_says_so(tmp_path):
    config = cell("reward._target_=tests.learning.test_policy.equal", "trainer.epochs=1", "strategy.epochs=1")
    with pytest.raises(NoEffect, match=r"equal rewards in all \d+ steps \(mean 0.5\)"):
        build(config["strategy"], "strategy").run(make_lab(tmp_path), Cast(config))


def few(texts):
    return [0.0]


def broken(texts):
    return [math.nan for _ in texts]


def blind(references):
    return [0.0 for _ in references]


def strange(texts, unheard):
    return [0.0 for _ in texts]


def failing(texts):
    return [float(text) for text in texts]


def test_rewards_that_are_none_are_told():
    columns = {"texts": ["a", "b"], "references": ["a", "c"], "prompts": ["", ""], "samples": [None, None]}
    for name, words in {
        "few": "returned 1 numbers for 2 texts",
        "broken": "returned nan",
        "blind": "no parameter 'texts'",
        "strange": "nothing to give as 'unheard'",
    }.items():
        with pytest.raises(UserError, match=words):
            Reward({"_target_": f"tests.learning.test_policy.{name}"})(columns)
    assert Reward({"_target_": "kdrun.domains.language.rewards.exact_match"})(columns) == [1.0, 0.0]


def test_a_reward_is_tried_before_anything_is_trained():
    from kdrun.learning.beforehand import check_builds
    from kdrun.strategies.unused import stages_of

    config = cell("reward._target_=tests.learning.test_policy.broken")
    module = load_data(config["data"], config["paths"])
    with pytest.raises(UserError, match="returned nan"):
        check_builds(stages_of(config), module, config["hardware"])
    words = r"failing fails on 8 texts, the first '': ValueError: could not convert"  # those of the data are numbers
    with pytest.raises(UserError, match=words) as told:
        failing_stages = stages_of(cell("reward._target_=tests.learning.test_policy.failing"))
        check_builds(failing_stages, module, config["hardware"])
    assert re.fullmatch(r".*test_policy.py, line \d+", told.value.lines[1]) and len(told.value.lines) == 2
    check_builds(stages_of(cell()), module, config["hardware"])


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["model=lm_small"], "needs a reward"),
        (["model=lm_answers", "strategy.group=1"], "2 or more"),
        (["model=lm_answers", "strategy.start=own"], "random weights"),
        (["model=lm_answers", "strategy.start=begin"], "all: alone, taught and own|all: alone, taught, own"),
        (["model=lm_answers", "strategy.temperature=0"], "above 0"),
        (["model=lm_answers", "reward=exact_mach"], "closest: exact_match"),
        (["model=lm_answers", "reward._target_=kdrun.domains.answers.shipped.arithmetic.arithmetic"], "not a reward"),
        (["model=mlp_ladder"], "data.task=classification"),
    ],
)
def test_what_does_not_go_is_refused(words, lines):
    with pytest.raises(UserError, match=lines):
        compose(["strategy=grpo", "seed=0", *words])
