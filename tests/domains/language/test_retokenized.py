"""A teacher with another tokenizer: what it reads of a batch, where its predictions go, and runs of it from the command line."""

import json
import shutil

import numpy as np
import pytest
import torch
from language_support import COMMON

pytest.importorskip("transformers")

import kdrun
from kdrun.domains.language import tokens
from kdrun.domains.language.module import language_module
from kdrun.domains.language.retokenized import SameTokens
from kdrun.domains.language.source import documents
from kdrun.domains.task import Prediction
from kdrun.problems import UserError

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
    "while",
    "a",
    "naïve",
    "東京",
    "café",
    "sang",
    "🙂",
    "again",
    "and",
    "again",
]
TEXTS = [" ".join(WORDS[(3 * n + k * k) % len(WORDS)] for k in range(4 + n % 23)) for n in range(60)]
SUNG = [" ".join(WORDS[(n + k) % len(WORDS)] for k in range(5 + n % 17)) for n in range(60)]
"""Texts in which each word says the next, so that a network has learned them within seconds."""
CHATS = [
    (("user", f"say {text}"), ("assistant", text), ("user", "more"), ("assistant", f" {text} again\n"))
    for text in TEXTS
]
TURNS = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }}</s>\n{% else %}[{{ m.content }}]{% endif %}"
    "{% endfor %}"
)
"""A template in which an answer begins with a space and ends otherwise than in ChatML."""
BASE = {**COMMON, "test_fraction": 0.1, "duplicates": "keep", "vocabulary": 270}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of two byte-pair tokenizers, trained on other parts of the texts."""
    made, cache = [], tmp_path_factory.mktemp("cache")
    for name, texts, size in (("ours", TEXTS, 330), ("theirs", TEXTS[:7], 285)):
        folder = tmp_path_factory.mktemp(name)
        tokenizer = tokens.trained(texts, size, cache).made
        if name == "theirs":
            tokenizer.chat_template = TURNS
        tokenizer.save_pretrained(folder)
        made.append(folder)
    return made


def modules(folders, found, lengths=(24, 24), pack=True):
    source = documents(found, "texts", split=np.maximum(np.arange(len(found)) % 10 - 7, 0).astype(np.int8))
    both = [
        language_module(source, {**BASE, "tokenizer": str(folder), "max_length": most, "pack": pack}, "/nowhere")
        for folder, most in zip(folders, lengths, strict=True)
    ]
    return [both[0], both[1], both[1].view_of(both[0])]


def batches(learned):
    return list(learned.train_loader(64, 0))


def spans_of(batch, seen):
    """(row, first place of the student, its ids, first place of the teacher, its ids) of each span."""
    for row, place in seen["aligned"]["spans"].nonzero().tolist():
        count = int(seen["aligned"]["spans"][row, place])
        there = int(seen["aligned"]["at"][row, place])
        owned = seen["aligned"]["owned"]
        alike = bool(seen["aligned"]["coincide"][row, place])
        more = 1 if alike else int(((owned[:, 0] == row) & (owned[:, 2] == place)).sum())
        yield (
            row,
            place,
            batch["targets"][row, place : place + count].tolist(),
            there,
            seen["aligned"]["targets"][row, there : there + more].tolist(),
        )


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("lengths", [(24, 24), (16, 64)])
def test_spans_of_texts_are_the_same_text_after_the_same_text(folders, lengths, pack):
    learned, module, view = modules(folders, TEXTS, lengths, pack)
    compared, predicted, differing = 0, 0, 0
    for batch in batches(learned):
        seen = view.seen(batch)
        for row, place, ours, there, theirs in spans_of(batch, seen):
            assert batch["mask"][row, place : place + len(ours)].all()
            assert said(learned, ours) == said(module, theirs)
            before = [
                text_before(learned, batch["inputs"], row, place),
                text_before(module, seen["inputs"], row, there),
            ]
            assert before[0] == before[1]
            compared += len(ours)
            differing += ours != theirs and (len(ours), len(theirs)) != (1, 1)
        predicted += int(batch["mask"].sum())
    assert differing, "the tokenizers cut texts differently"
    assert compared > 0.8 * predicted if lengths[1] == 64 else compared > 0.4 * predicted


def said(module, ids):
    return module.tokenizer.made.decode(ids, skip_special_tokens=False)


def text_before(module, inputs, row, place):
    """Of the same document, up to and with a place."""
    mask = inputs["attention_mask"][row].long()
    here = (mask == mask[place]) & (torch.arange(len(mask)) <= place)
    return said(module, inputs["input_ids"][row][here].tolist())


def test_predictions_are_in_the_columns_and_at_the_positions_of_the_student(folders):
    learned, module, view = modules(folders, TEXTS)
    batch = batches(learned)[0]
    seen = view.seen(batch)
    shape = (*seen["inputs"]["input_ids"].shape, module.spec.vocabulary)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    told = view.told(Prediction(logits), seen)
    logs = logits.log_softmax(-1)
    alike = 0
    for row, place, ours, there, theirs in spans_of(batch, seen):
        one = len(ours) == len(theirs) == 1
        assert bool(told.features["coincide"][row, place]) == one
        if one:
            assert told.logits[row, place, ours[0]] == logits[row, there, theirs[0]]
            alike += 1
            continue
        expected = sum(float(logs[row, there + k, token]) for k, token in enumerate(theirs))
        assert float(told.features["span_log_probs"][row, place]) == pytest.approx(expected, abs=1e-4)
    assert alike > 20
    row, place = seen["aligned"]["spans"].nonzero()[0].tolist()
    mine, yours = (each.tokenizer.made.get_vocab() for each in (learned, module))
    for token, number in mine.items():
        value = told.logits[row, place, number]
        if token in yours and not token.startswith("<|"):
            assert value == logits[row, seen["aligned"]["at"][row, place], yours[token]]
        elif token not in yours:
            assert value == -torch.inf
    assert sorted(told.logits[row, place][told.logits[row, place].isfinite()].tolist()) == pytest.approx(
        sorted(logits[row, seen["aligned"]["at"][row, place]].tolist())
    ), "every token of the teacher is told once"


def test_answers_of_chats_are_compared_through_both_templates(folders):
    learned, module, view = modules(folders, CHATS, (500, 500))
    texts, ends = [], 0
    for batch in batches(learned):
        seen = view.seen(batch)
        for row, place, ours, _, theirs in spans_of(batch, seen):
            assert batch["mask"][row, place : place + len(ours)].all()
            pair = said(learned, ours), said(module, theirs)
            ended = pair[0].endswith("<|im_end|>"), pair[1].endswith("</s>")
            assert ended[0] == ended[1]
            ends += ended[0]
            texts.append(pair)
            if not ended[0]:
                assert pair[0].strip() == pair[1].strip()
    assert ends == 2 * len(learned.documents["train"]), "each answer ends once"
    assert len(texts) > 4 * ends


def test_a_chat_that_is_cut_is_compared_as_far_as_it_is_there(folders):
    learned, _, view = modules(folders, CHATS, (40, 30))
    compared = 0
    for batch in batches(learned):
        seen = view.seen(batch)
        assert seen["inputs"]["input_ids"].shape[1] <= 2 * 40 and int(seen["aligned"]["at"].max()) < 100
        compared += len(list(spans_of(batch, seen)))
    assert compared


def test_of_equal_tokenizers_the_teacher_reads_the_rows_of_the_student(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "copy")
    learned, _, view = modules([folders[0], tmp_path / "copy"], TEXTS)
    batch = batches(learned)[0]
    assert isinstance(view, SameTokens) and not view.aligned and view.seen(batch) is batch


SMALL = (
    *("model=lm_small", "teacher=lm_w64", "data.language.duplicates=keep", "trainer.batch_size=4", "trainer.epochs=1"),
    *("teacher.trainer.epochs=8", "seed=0", "hardware=cpu", "tracker=none", "card=false"),
)


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in SUNG))
    chats = [{"messages": [{"role": role, "content": said} for role, said in chat]} for chat in CHATS]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    usual = [f"data.language.tokenizer={folders[0]}", f"paths.outputs={folder}/outputs"]

    def runs(*words, data="text_corpus", file="texts.jsonl"):
        return kdrun.run(*SMALL, f"data={data}", f"data.root={folder / file}", *usual, *words)

    return runs


def weights(view):
    return kdrun.load(view, "student").state_dict()


def test_with_equal_tokenizers_it_is_kd_bit_for_bit(run, folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "copy")
    own = f"teacher.data.language.tokenizer={tmp_path / 'copy'}"
    half = ("ce.weight=0.5", "ce.label_smoothing=0", "kd.weight=0.5", "kd.temperature=1")
    kd = run("objective=word_kd", "teacher.source=online", *(f"objective.{word}" for word in half))
    aligned = run("objective=aligned_kd", own)
    other = run("objective=aligned_kd", f"teacher.data.language.tokenizer={folders[1]}")
    first, second, third = (weights(view) for view in (kd, aligned, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)
    # Where a tokenizer lies is no part of what a student learned.
    shutil.move(tmp_path / "copy", tmp_path / "moved")
    again = run("objective=aligned_kd", own.replace("copy", "moved"))
    assert {stage["source"] for stage in again.stages} == {"store"}


def test_losses_of_one_vocabulary_are_refused_before_anything_is_trained(run, folders, monkeypatch):
    monkeypatch.setattr("kdrun.learning.fit.run_stage", lambda *_: pytest.fail("something was trained"))
    own = f"teacher.data.language.tokenizer={folders[1]}"
    for words, key in (
        (["objective=word_kd"], "objective.kd"),
        (["objective=word_kd_topk"], "objective.kd_topk"),
        (["objective=uld", "trainer.gap=true"], "trainer.gap"),
    ):
        with pytest.raises(UserError, match=rf"{key}.*tokens") as error:
            run(*words, own, "teacher.seed=7")
        assert "uld" in str(error.value) and "aligned_kd" in str(error.value)


def test_chats_are_learned_from_a_teacher_of_another_tokenizer(run, folders):
    words = ("objective=uld", "data.language.max_length=128", "teacher.data.language.max_length=192")
    own = f"teacher.data.language.tokenizer={folders[1]}"
    view = run(*words, own, data="chats", file="chats.jsonl")
    (student,) = [stage for stage in view.stages if stage["role"] == "student"]
    assert student["teacher"]["source"] == "online"
    assert student["first_step"]["uld"]["gradient"] > 0
