"""What language models write behind held-out prompts, and its scores."""

import numpy as np
import pytest
import torch

from kdrun.domains.language.rows import pieces, separate
from kdrun.domains.language.shipped.made_corpus import made_corpus
from kdrun.domains.language.tokens import trained
from kdrun.domains.language.written import boundary, prompts, scores

CHAT = (("user", "Where is the cat?"), ("assistant", "There."), ("user", "And the dog?"), ("assistant", "Here it is."))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return trained(made_corpus(60).documents, 300, tmp_path_factory.mktemp("cache"))


def test_scores_of_equal_texts_are_1_and_of_others_what_one_counts_by_hand():
    same = scores(["Ein Kätzchen schläft."], ["Ein  Kätzchen schläft.\n"], [4])
    assert same == {"exact_match": 1, "rouge1": 1, "rougeL": 1, "distinct2": 1, "generated_tokens": 4}
    # 3 of 4 words of either are in common; "the cat" and "sat" are in the same order: 3 of 4; pairs: the cat, cat sat, sat down.
    found = scores(["the cat sat down"], ["the cat sat here"], [4])
    assert found["exact_match"] == 0 and found["rouge1"] == found["rougeL"] == pytest.approx(0.75)
    turned = scores(["sat cat the"], ["the cat sat"], [3])
    assert turned["rouge1"] == 1 and turned["rougeL"] == pytest.approx(1 / 3)
    assert scores(["no no no no no"], ["yes"], [5])["distinct2"] == 1 / 4
    assert scores(["猫 睡"], ["猫 睡"], [2])["rouge1"] == 1


def test_a_prompt_ends_before_the_last_answer_or_in_the_middle_of_a_text(tokenizer):
    chats = separate(pieces([0], [CHAT], tokenizer, 256)[0], tokenizer.pad)
    (prompt,) = prompts(chats, 5, 64, tokenizer.ends)
    assert prompt.ids == tokenizer.prompt(CHAT[:3])
    assert tokenizer.made.decode(prompt.reference) == "Here it is."
    texts = separate(pieces(range(9), made_corpus(40).documents[:9], tokenizer, 64)[0], tokenizer.pad)
    found = prompts(texts, 4, 3, tokenizer.ends)
    assert len(found) == 4 and all(1 <= len(one.reference) <= 3 for one in found)
    assert {one.number for one in found} >= {int(texts.ids[0]), int(texts.ids[-1])}
    assert boundary(texts, 0) == (len(texts.tokens[0]) + 1) // 2
    assert prompts(texts, 0, 3, tokenizer.ends) == []


def test_a_network_that_knows_the_text_matches_it(tmp_path):
    from language_support import module_of

    from kdrun.domains.language.task import CausalLanguage

    module = module_of(tmp_path, made_corpus(60), max_length=32, prompts=3, max_new=8)
    task, samples = CausalLanguage(module), module.samples("test")

    class Remembers(torch.nn.Module):
        """Writes what stands behind a prompt in the rows of test."""

        def __init__(self):
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(1))

        def generate(self, ids, real, most, ends, **_):
            rows = [samples.tokens[row].tolist() for row in range(len(samples))]
            wanted = [line[mask].tolist() for line, mask in zip(ids, real, strict=True)]
            behind = [next(row[len(one) :] for row in rows if row[: len(one)] == one) for one in wanted]
            return [[token for token in row if token not in ends][:most] for row in behind]

    found, rows = task.generation_scores(Remembers(), "test")
    assert found["exact_match"] == found["rougeL"] == 1 and len(rows) == 3
    assert all(row["text"] == row["reference"] and row["prompt"] for row in rows)
    assert task.generation_scores(torch.nn.Linear(1, 1), "test") == ({}, [])
    assert {row["id"] for row in rows} <= set(np.asarray(samples.ids).tolist())


def test_networks_are_preferred_by_the_likelihood_of_references_and_shown_side_by_side(tmp_path):
    from kdrun.job.beside import wins, written
    from kdrun.learning.resampling import write_samples
    from kdrun.report.written import written_tables

    def record(name, nats, text):
        folder = tmp_path / name
        folder.mkdir()
        write_samples(folder, "test", [{"id": n, "nats": one, "bytes": 9} for n, one in enumerate(nats)])
        said = [{"id": 0, "prompt": "Who?", "reference": "She.", "text": text}]
        write_samples(folder, "written-test", said)
        scores = dict.fromkeys(("exact_match", "rouge1", "rougeL", "distinct2", "generated_tokens"), 0.5)
        known = {"folder": str(folder), "task": "causal_lm", "role": name, "seed": 0, "label": name}
        test = {"best": scores, "last": scores}
        return {**known, "test": test, "val": {"epoch_best": 0, "epochs": 1}, "fingerprint": name}

    teacher, student = record("teacher", [1.0, 2.0, 3.0, 4.0], "She"), record("student", [0.5, 2.0, 3.5, 5.0], "He")
    won = wins({0: student}, {0: teacher})
    assert won["best"]["mean"] == won["last"]["mean"] == (1 + 0.5) / 4 and won["samples"] == 4
    assert wins({0: {**student, "task": "classification"}}, {0: teacher}) is None and wins({0: student}, {}) is None
    texts = written({"student": {0: student}}, {0: teacher}, "last")
    assert texts == [{"prompt": "Who?", "reference": "She.", "texts": {"teacher": "She", "student": "He"}}]
    summary = {"arms": {"student": {"label": "student, distilled", "wins": won}}, "written": texts}
    stages = [teacher, student]
    config = {"data": {"task": "causal_lm"}, "strategy": {}}
    scores_, said = written_tables({"summary": summary, "stages": stages, "config": config, "seeds": [0]})
    assert scores_.rows[1] == ("student, distilled", "50.00", "50.00", "50.00", "50.00", "0.5", "38 % of 4")
    assert [row[1:] for row in said.rows] == [
        ("prompt", "Who?"),
        ("reference", "She."),
        ("teacher", "She"),
        ("student, distilled", "He"),
    ]
    assert written_tables({"config": {"data": {"task": "classification"}}}) == []
